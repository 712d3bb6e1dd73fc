"""process -> process whose large buffers are reused; before jax (or torch) starts its threads."""

import ctypes
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
