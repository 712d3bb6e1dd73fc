"""Deals out the slices of prepared cases in batches, in an order that the seed decides.

With cached features, batches have tokens (B, L, h, w, D), too.

The order is a function of the seed alone: a global shuffle, dealt out to the processes one by one.
Reading is done by threads, so there are no worker processes to die.
"""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from lagseg_jax.data.disk_cache import read_row
from lagseg_jax.data.prepare import PreparedCase

Batch = dict[str, np.ndarray]


class SliceSource:
    """All slices of some cases, as a Grain source (random access by slice number).

    Args:
        cases: whose slices they are.
        tokens: of every case (Z, L, h, w, D), from `features.cached_tokens`; None: not handed out.
    """

    def __init__(self, cases: Sequence[PreparedCase], tokens: Sequence[np.ndarray] | None = None):
        self.cases, self.tokens = list(cases), tokens
        self.index = [(c, z) for c, case in enumerate(cases) for z in range(len(case.images))]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> Batch:
        """One slice: image (E, E) float16 in 0..1, mask (E, E) uint8, its number and its case's.

        With cached features its tokens (L, h, w, D), too. Raises InputError if a file of the cache
        was cut short.
        """
        case, z = self.index[number]
        # Copied here, by a reading thread, and not at their first use.
        row = {
            "image": read_row(self.cases[case].images, z),
            "mask": read_row(self.cases[case].masks, z),
            "slice": np.array(number, np.int32),
            "case": np.array(case, np.int32),
        }
        if self.tokens is not None:
            row["tokens"] = read_row(self.tokens[case], z)
        return row


class _Part:
    """Some slices of a source, as a Grain source."""

    def __init__(self, source: SliceSource, numbers: Sequence[int]):
        self._source, self._numbers = source, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Batch:
        return self._source[self._numbers[number]]


def shuffled(source: SliceSource, seed: int, balanced: bool) -> grain.MapDataset:
    """The slices again and again, in an order that the seed decides.

    Args:
        source: of the slices.
        seed: of the order.
        balanced: the datasets take turns, however many slices they have; else every slice comes as
            often as any other.
    """
    names = [source.cases[case].dataset for case, _ in source.index]
    datasets = list(dict.fromkeys(names))
    if not balanced or len(datasets) < 2:
        return grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    parts = [
        _Part(source, [number for number, name in enumerate(names) if name == dataset])
        for dataset in datasets
    ]
    return grain.MapDataset.mix(
        [grain.MapDataset.source(part).seed(seed).shuffle().repeat() for part in parts]
    )


class TrainingBatches:
    """Endless shuffled batches of this process, with a state for the checkpoint.

    Args:
        source: the training slices.
        batch_size: slices per step over all processes; each gets an equal part.
        seed: of the order; every epoch is shuffled anew.
        threads: readers.
        process: (index, count) of this process.
        balanced: every dataset as often as the others, not every slice.
    """

    def __init__(
        self,
        source: SliceSource,
        batch_size: int,
        seed: int,
        threads: int,
        process: tuple[int, int] = (0, 1),
        balanced: bool = False,
    ):
        index, self._processes = process
        local = batch_size // self._processes
        # Tokens are hundreds of times larger than images: fewer batches fit into the memory.
        ahead = local * (4 if source.tokens is None else 2)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        order = shuffled(source, seed, balanced)
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
