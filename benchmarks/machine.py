"""this machine -> what a reader of the numbers must know about it; peak memory of a process."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers", "nnunetv2", "numpy")


def describe() -> dict:
    """Processor, cores, memory, git commit and time of this run."""
    return {
        "cpu": _first_field("/proc/cpuinfo", "model name") or platform.processor(),
        "features": features(),
        "cores": cores(),
        "memory_gib": round(_kib("/proc/meminfo", "MemTotal") / 2**20, 1),
        "system": platform.platform(),
        "git": _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain") else ""),
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


def features() -> list[str]:
    """Instruction sets of the processor that matter here."""
    flags = _first_field("/proc/cpuinfo", "flags").split()
    return [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]


def _first_field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next(
        (v.strip() for k, _, v in (x.partition(":") for x in lines) if k.strip() == name), ""
    )


def _kib(path: str, name: str) -> int:
    return int((_first_field(path, name) or "0").split()[0])


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


COMMANDS = {"cores": cores}
