"""Predicts what a volume needs of this machine's memory, before any of it is allocated."""

import math
from collections.abc import Sequence
from pathlib import Path

from lagseg_jax.runtime.errors import InputError

# Slices as stored, as float32 and resized in one direction, and their probability.
COPIES = 3
IN_FLIGHT = 2  # batches: one is computed while the one before is fetched
# Of versions 2 and 1: the limit of a container, and what is used of it.
_COUNTERS = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_LIMITS = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")


def check_memory(
    shape: Sequence[int], padded: Sequence[int], batch: int, itemsize: int, probability: bool
) -> None:
    """Refuses slices (Z, H, W) for which the memory that is there is too small.

    Args:
        shape: of all slices.
        padded: height and width as computed.
        batch: slices at a time.
        itemsize: bytes of a stored grey value.
        probability: whether float32 is kept for every voxel, or one byte.

    Raises:
        InputError: it is.
    """
    there = available_bytes()
    block = IN_FLIGHT * batch * math.prod(padded) * (itemsize + 4 * COPIES)
    needed = block + math.prod(shape) * (4 if probability else 1)
    if there is not None and needed > there:
        raise InputError(
            f"the volume has slices of {shape[1]} x {shape[2]} pixels, whose prediction needs "
            f"{needed / 1e9:.1f} GB of memory where {there / 1e9:.1f} GB are free, expected "
            "smaller slices, or a smaller config.predict.batch_size"
        )


def available_bytes() -> int | None:
    """Memory that this process can still get; None where the system does not say."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    except OSError:
        pass
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        for folder in map(Path, _LIMITS):
            try:
                found.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
            except (OSError, ValueError):  # not there, or "max"
                continue
    return min(found) if found else None
