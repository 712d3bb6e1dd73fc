"""Predicts what a volume needs of the memory of host and device, before any is allocated."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from lagseg_jax.runtime.errors import InputError

# Slices as stored, as float32 and resized in one direction, and their probability.
COPIES = 3
IN_FLIGHT = 2  # batches: one is computed while the one before is fetched
# Of versions 2 and 1: the limit of a container, and what is used of it.
_COUNTERS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
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
    block = IN_FLIGHT * batch * math.prod(padded) * (itemsize + 4 * COPIES)
    needed = block + math.prod(shape) * (4 if probability else 1)
    of_device = block // jax.local_device_count()  # what the network itself needs comes on top
    for what, there, wanted in (
        ("memory", available_bytes(), needed),
        ("memory of the device", device_bytes(), of_device),
    ):
        if there is not None and wanted > there:
            raise _too_large(
                shape, f"{wanted / 1e9:.1f} GB of {what} where {there / 1e9:.1f} GB are free"
            )


def _too_large(shape: Sequence[int], what: str) -> InputError:
    return InputError(
        f"the volume has slices of {shape[1]} x {shape[2]} pixels, whose prediction needs {what}, "
        "expected smaller slices, or a smaller config.predict.batch_size"
    )


@contextlib.contextmanager
def refused_where_memory_ends(shape: Sequence[int]) -> Iterator[None]:
    """What runs out of memory all the same, on host or device, is an InputError of the volume."""
    try:
        yield
    except MemoryError:
        raise _too_large(shape, "more memory than there is") from None
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise _too_large(shape, "more memory of the device than there is") from None


def device_bytes() -> int | None:
    """Memory that is free on the fullest local device; None where devices do not say."""
    found = [device.memory_stats() or {} for device in jax.local_devices()]
    free = [s["bytes_limit"] - s.get("bytes_in_use", 0) for s in found if "bytes_limit" in s]
    return min(free) if free else None


def available_bytes() -> int | None:
    """Memory that this process can still get; None where the system does not say."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    except OSError:
        pass
    for limit, used in _COUNTERS:
        for folder in map(Path, _LIMITS):
            try:
                found.append(int((folder / limit).read_text()) - int((folder / used).read_text()))
            except (OSError, ValueError):  # not there, or "max"
                continue
    return min(found) if found else None
