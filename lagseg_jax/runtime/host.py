"""Sets up the memory of the process, and says which libraries and which commit it runs."""

import ctypes
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

# glibc's malloc.h: name, parameter number, value.
SETTINGS = (
    ("M_MMAP_MAX", -4, 0),
    ("M_TRIM_THRESHOLD", -1, 2**31 - 1),
    ("M_TOP_PAD", -2, 2**28),
    ("M_ARENA_MAX", -8, 1),
)
# Device files of NVIDIA's and AMD's GPUs and of TPUs.
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")


def tune() -> str:
    """Keeps freed memory in the process; returns what was set, in words.

    By default glibc maps every large buffer anew, and the page faults of the first write can cost
    as much as the arithmetic: on a CPU, a training step takes 4 to 18 % longer without this
    (docs/performance.md). Its one arena would be a queue for the readers of a large accelerator
    host, so nothing is set where there is one.
    """
    if any(Path(device).exists() for device in ACCELERATORS):
        return "malloc as it is: an accelerator is there"
    if not sys.platform.startswith("linux"):
        return "malloc as it is"
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, such as musl
        return "malloc as it is"
    done = [f"{name}={value}" for name, number, value in SETTINGS if mallopt(number, value)]
    return "mallopt " + ", ".join(done)


LIBRARIES = (
    *("lagseg_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"),
    *("numpy", "scipy", "nibabel", "pynrrd", "ml_collections", "safetensors"),
)


def library_versions() -> dict[str, str | None]:
    """{library: version}; None for what is not installed."""
    return {name: _version(name) for name in LIBRARIES}


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor_flags() -> set[str]:
    """Names of the instruction sets of this machine's CPU; empty where it is not Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def git_commit(folder: Path) -> str | None:
    """The commit that this folder's code was checked out from, `-dirty` if it was changed since.

    None if it is no checkout (an installed package), or there is no git.
    """
    # A package installed inside the checkout of something else is not tracked there.
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    return tracked and _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # only looks
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
