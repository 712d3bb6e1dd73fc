"""process -> process whose large buffers are reused; call before jax or torch are imported."""

import ctypes
import sys

# glibc's malloc.h: name, parameter number, value.
SETTINGS = (
    ("M_MMAP_MAX", -4, 0),
    ("M_TRIM_THRESHOLD", -1, 2**31 - 1),
    ("M_TOP_PAD", -2, 2**28),
    ("M_ARENA_MAX", -8, 1),
)


def tune() -> str:
    """Keeps freed memory in the process; returns what was set, in words.

    By default glibc maps every large buffer anew, and the page faults of the first write cost as
    much as the arithmetic.
    """
    if not sys.platform.startswith("linux"):
        return "malloc as it is"
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, such as musl
        return "malloc as it is"
    done = [f"{name}={value}" for name, number, value in SETTINGS if mallopt(number, value)]
    return "mallopt " + ", ".join(done)
