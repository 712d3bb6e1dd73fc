"""Batches: a function of the seed, every slice once per epoch, exact after a restart."""

import itertools
import json
import os

import numpy as np
import pytest

from lagseg_jax.data.batches import (
    SliceSource,
    TrainingBatches,
    evaluation_batches,
    split_over_devices,
)
from lagseg_jax.data.disk_cache import open_array, read_row
from lagseg_jax.data.prepare import PreparedCase
from lagseg_jax.runtime.errors import InputError

SLICES = (5, 7, 11)  # of three cases
TOTAL = sum(SLICES)
SIZE = 3


def source_of(counts=SLICES):
    """Every pixel of an image is the slice's number, every pixel of a mask its parity."""
    start, cases = 0, []
    for c, count in enumerate(counts):
        numbers = np.arange(start, start + count)[:, None, None] * np.ones((SIZE, SIZE), int)
        images, masks = numbers.astype(np.float16), (numbers % 2).astype(np.uint8)
        cases.append(PreparedCase(f"case_{c}", images, masks))
        start += count
    return SliceSource(cases)


@pytest.fixture
def batches():
    """Opens training batches, and closes them after the test."""
    opened = []

    def open_batches(batch_size=4, seed=0, process=(0, 1), threads=3):
        opened.append(TrainingBatches(source_of(), batch_size, seed, threads, process))
        return opened[-1]

    yield open_batches
    for iterator in opened:
        iterator.close()


def take(iterator, steps):
    """The slice numbers (steps, B) of the next batches."""
    return np.array([batch["slice"] for batch in itertools.islice(iterator, steps)])


def test_source():
    source = source_of()
    assert len(source) == TOTAL
    for number, case in ((0, 0), (4, 0), (5, 1), (11, 1), (12, 2), (22, 2)):
        row = source[number]
        assert (row["slice"], row["case"]) == (number, case)
        assert row["image"].shape == row["mask"].shape == (SIZE, SIZE)
        assert (row["image"] == number).all() and (row["mask"] == number % 2).all()


# Training


def test_a_batch_holds_the_slices_that_it_names(batches):
    for batch in itertools.islice(batches(), 7):
        assert batch["image"].shape == batch["mask"].shape == (4, SIZE, SIZE)
        assert (batch["image"].dtype, batch["mask"].dtype) == (np.float16, np.uint8)
        assert (batch["image"] == batch["slice"][:, None, None]).all()
        assert (batch["mask"] == batch["slice"][:, None, None] % 2).all()
        np.testing.assert_array_equal(
            batch["case"], np.searchsorted([5, 12], batch["slice"], "right")
        )


def test_the_order_is_a_function_of_the_seed(batches):
    order = take(batches(seed=1), 12)
    np.testing.assert_array_equal(order, take(batches(seed=1), 12))
    np.testing.assert_array_equal(order, take(batches(seed=1, threads=1), 12))
    assert (order != take(batches(seed=2), 12)).any()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_epoch_holds_each_slice_once_in_a_new_order(batches, batch_size):
    """Epochs of 23 slices run into each other: a batch may hold the end of one and the next."""
    order = take(batches(batch_size), -(-3 * TOTAL // batch_size)).ravel()
    epochs = order[: 3 * TOTAL].reshape(3, TOTAL)
    for epoch in epochs:
        assert sorted(epoch) == list(range(TOTAL))
    assert len({tuple(epoch) for epoch in (*epochs, range(TOTAL))}) == 4


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_exactly_the_slices_of_one(batches, processes):
    """In every step, over three epochs."""
    whole = take(batches(8), 9)
    parts = [take(batches(8, process=(index, processes)), 9) for index in range(processes)]
    assert all(part.shape == (9, 8 // processes) for part in parts)
    together = np.concatenate(parts, axis=1)
    np.testing.assert_array_equal(np.sort(together), np.sort(whole))


def test_a_restart_continues_exactly(batches):
    """Also right after the start and beyond an epoch, through JSON, with other threads."""
    whole = take(batches(), 20)
    for done in (0, 1, 5, 6, 13):
        first = batches()
        take(first, done)
        state = json.loads(json.dumps(first.state()))
        assert state == {"slices_consumed": 4 * done}  # and not what was read ahead
        second = batches(threads=1)
        second.restore(state)
        np.testing.assert_array_equal(take(second, 20 - done), whole[done:])


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2)])
def test_a_restart_on_another_number_of_processes(batches, before, after):
    whole = take(batches(8), 12)
    first = [batches(8, process=(index, before)) for index in range(before)]
    for iterator in first:
        take(iterator, 5)
    states = [iterator.state() for iterator in first]
    assert all(state == states[0] for state in states)
    second = [batches(8, process=(index, after)) for index in range(after)]
    for iterator in second:
        iterator.restore(states[0])
    together = np.concatenate([take(iterator, 7) for iterator in second], axis=1)
    np.testing.assert_array_equal(np.sort(together), np.sort(whole[5:]))


# Evaluation


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("slices", [(5, 7, 11), (1,), (5, 7)])  # 23 and 1 do not fill batches of 6
def test_evaluation_sees_every_slice_once(processes, slices):
    source = source_of(slices)
    parts = [list(evaluation_batches(source, 6, (p, processes))) for p in range(processes)]
    assert {len(part) for part in parts} == {-(-len(source) // 6)}
    seen = []
    for batch in itertools.chain(*parts):
        assert batch["image"].shape == (6 // processes, SIZE, SIZE)
        assert batch["weight"].dtype == np.float32
        assert set(batch["weight"]) <= {0.0, 1.0}
        assert (batch["image"] == batch["slice"][:, None, None]).all()
        seen += batch["slice"][batch["weight"] == 1].tolist()
    assert sorted(seen) == list(range(len(source)))


# Devices


def test_a_batch_is_dealt_out_in_order():
    batch = {"image": np.arange(6 * 4).reshape(6, 2, 2), "slice": np.arange(6)}
    split = split_over_devices(batch, 3)
    assert split["slice"].tolist() == [[0, 1], [2, 3], [4, 5]]
    np.testing.assert_array_equal(split["image"].reshape(6, 2, 2), batch["image"])
    assert split["image"].shape == (3, 2, 2, 2)


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_file_cut_short_while_it_is_read_is_named(tmp_path, part):
    """Reading the memory map would end the process with SIGBUS, which names nothing."""
    for name, dtype in (("images", np.float16), ("masks", np.uint8)):
        np.save(tmp_path / f"{name}.npy", np.zeros((300, 59, 61), dtype))
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("images", "masks")]
    batches = TrainingBatches(SliceSource([PreparedCase("case", *maps)]), 4, seed=0, threads=2)
    next(batches)
    os.truncate(tmp_path / f"{part}.npy", 5000)
    with pytest.raises(InputError, match=rf"{part}\.npy has 5000 bytes"):
        for _ in range(75):
            next(batches)
    batches.close()


def test_a_row_is_read_from_its_file_and_from_the_map_once_that_is_gone(tmp_path):
    expected = np.random.default_rng(0).integers(0, 9, (7, 5, 3)).astype(np.float16)
    np.save(tmp_path / "a.npy", expected)
    array = open_array(tmp_path / "a.npy")
    other = expected[::-1].copy()
    np.save(tmp_path / "a.npy", other)  # in place: what the file holds now is what is read
    rows = [read_row(array, z) for z in range(7)]
    np.testing.assert_array_equal(rows, other)
    assert rows[0].dtype == np.float16 and rows[0].flags.writeable
    (tmp_path / "a.npy").unlink()
    np.testing.assert_array_equal([read_row(array, z) for z in range(7)], other)
