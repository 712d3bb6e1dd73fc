"""prepared cases -> Grain batches {image (B, S, S), mask (B, S, S), slice (B,), case (B,)}.

The order is a function of the seed alone: a global shuffle, dealt out to the processes one by one.
Reading is done by threads (the slices are memory maps), so there are no worker processes to die.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from lagseg_jax.cache import PreparedCase
from lagseg_jax.errors import InputError

Batch = dict[str, np.ndarray]


class SliceSource:
    """All slices of some cases, as a Grain source (random access by slice number)."""

    def __init__(self, cases: Sequence[PreparedCase]):
        self.cases = list(cases)
        self.index = [(c, z) for c, case in enumerate(cases) for z in range(len(case.images))]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> Batch:
        """One slice: image (S, S) float16 in 0..1, mask (S, S) uint8, its number and its case's."""
        case, z = self.index[number]
        return {
            "image": _slice(self.cases[case].images, z),
            "mask": _slice(self.cases[case].masks, z),
            "slice": np.array(number, np.int32),
            "case": np.array(case, np.int32),
        }


def _slice(slices: np.ndarray, z: int) -> np.ndarray:
    """One slice, of a memory map only if its file is still as long: else reading it would kill us.

    Raises:
        InputError: the file was cut short; the signal (SIGBUS) would not say which one.
    """
    if isinstance(slices, np.memmap) and slices.filename:
        with contextlib.suppress(FileNotFoundError):  # removed, but ours for as long as it is open
            size, expected = os.stat(slices.filename).st_size, slices.offset + slices.nbytes
            if size < expected:
                raise InputError(
                    f"{slices.filename} has {size} bytes, expected {expected}: something changed "
                    "the cache of decoded slices; delete its folder, and the same command continues"
                )
    return np.array(slices[z])  # copied here, by a reading thread, and not at its first use


class TrainingBatches:
    """Endless shuffled batches of this process, with a state for the checkpoint.

    Args:
        source: the training slices.
        batch_size: slices per step over all processes; each gets an equal part.
        seed: of the order; every epoch is shuffled anew.
        threads: readers.
        process: (index, count) of this process.
    """

    def __init__(
        self,
        source: SliceSource,
        batch_size: int,
        seed: int,
        threads: int,
        process: tuple[int, int] = (0, 1),
    ):
        index, self._processes = process
        local = batch_size // self._processes
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * local)
        order = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
        # Batched after the read-ahead: its state then counts whole batches, and loses no slice.
        self._iterator = iter(order[index :: self._processes].to_iter_dataset(options).batch(local))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def state(self) -> dict:
        """How many slices all processes have consumed: valid for any number of processes."""
        local = self._iterator.get_state()["next_index"]
        return {"slices_consumed": local * self._processes}

    def restore(self, state: dict) -> None:
        """Continues after the slices that `state` has consumed."""
        self._iterator.set_state({"next_index": state["slices_consumed"] // self._processes})

    def close(self) -> None:
        """Stops the reading threads."""
        self._iterator.close()


def evaluation_batches(
    source: SliceSource, batch_size: int, process: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Every slice once, in order; with `weight` (B,) float32, 0 for the padding of the last batch.

    All processes yield the same number of batches of the same shape, so none waits for another and
    nothing compiles twice.
    """
    index, count = process
    local = batch_size // count
    for start in range(0, len(source), batch_size):
        numbers = range(start + index * local, start + (index + 1) * local)
        rows = [source[min(n, len(source) - 1)] for n in numbers]
        batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        batch["weight"] = np.array([n < len(source) for n in numbers], np.float32)
        yield batch


def split_over_devices(batch: Batch, devices: int) -> Batch:
    """(B, ...) -> (devices, B / devices, ...) for pmap."""
    return {k: v.reshape(devices, -1, *v.shape[1:]) for k, v in batch.items()}
