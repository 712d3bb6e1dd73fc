"""What a reader of the numbers must know about this machine, and a process's peak memory."""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from lagseg_jax.runtime.host import git_commit, processor_flags

PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers", "nnunetv2", "numpy")
BFLOAT16 = {"avx512_bf16", "amx_bf16"}  # instruction sets that multiply it


def describe() -> dict:
    """Processor, cores, memory, git commit and time of this run."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "features": sorted(processor_flags() & (BFLOAT16 | {"avx2", "avx512f"})),
        "cores": cores(),
        "memory_gib": round(_kib("/proc/meminfo", "MemTotal") / 2**20, 1),
        "system": platform.platform(),
        "git": git_commit(Path(__file__).parents[1]) or "",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Python and those of `PACKAGES` that this interpreter has."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def peak_rss() -> int:
    """The largest resident memory of this process so far, in bytes; 0 where it is not known."""
    return _kib("/proc/self/status", "VmHWM") * 1024


def _field(path: str, name: str) -> str:
    """The first value of a field in one of Linux' tables; "" where there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in fields if key.strip() == name), "")


def _kib(path: str, name: str) -> int:
    return int((_field(path, name) or "0").split()[0])
