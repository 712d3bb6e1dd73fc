"""Rows of arrays on disk, and which entries of a cache go when it is full."""

import os
import time

import numpy as np
import pytest

from lagseg_jax.data.disk_cache import (
    STALE_SECONDS,
    TEMPORARY,
    evict,
    key_of,
    open_array,
    read_row,
    writing,
)
from lagseg_jax.runtime.errors import InputError

ARRAY = np.arange(5 * 3 * 7, dtype=np.float16).reshape(5, 3, 7)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    return tmp_path / "a.npy"


@pytest.mark.parametrize("index", range(len(ARRAY)))
def test_a_row_is_a_copy_of_that_row(path, index):
    mapped = open_array(path)
    for array in (ARRAY, mapped, mapped[:]):
        row = read_row(array, index)
        assert row.dtype == ARRAY.dtype and not np.shares_memory(row, array)
        np.testing.assert_array_equal(row, ARRAY[index])


def test_a_row_of_a_removed_file_is_still_there(path):
    mapped = open_array(path)
    path.unlink()
    np.testing.assert_array_equal(read_row(mapped, 3), ARRAY[3])


def test_a_file_cut_short_is_named_with_its_sizes(path):
    mapped = open_array(path)
    whole = path.stat().st_size
    os.truncate(path, whole - 1)
    np.testing.assert_array_equal(read_row(mapped, 3), ARRAY[3])  # the last row alone is damaged
    with pytest.raises(InputError, match=rf"a\.npy has {whole - 1} bytes, expected {whole}: "):
        read_row(mapped, 4)


def entry(folder, number, age, size=1000):
    """An entry of two files that was used `age` seconds ago."""
    path = folder / key_of([number])
    path.mkdir()
    (path / "a").write_bytes(bytes(size - 1))
    (path / "b").write_bytes(b"1")
    os.utime(path, (time.time() - age,) * 2)
    return path.name


def evicted(folder, kb, in_use=(), coming=0):
    before = {path.name for path in folder.iterdir()}
    evict(folder, set(in_use), kb / 1e6, "tokens", "config.here", coming)
    return before - {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("kb", "coming", "gone"),
    [(4, 0, 0), (3.999, 0, 1), (3, 0, 1), (2.5, 0, 2), (0, 0, 4), (4, 1, 1), (4, 2000, 2)],
)
def test_the_oldest_go_until_all_fit(tmp_path, kb, coming, gone):
    """And not one more; bytes that will come need their room."""
    by_age = [entry(tmp_path, number, age) for number, age in enumerate((40, 30, 20, 10))]
    assert evicted(tmp_path, kb, coming=coming) == set(by_age[:gone])


def test_entries_in_use_stay_however_old(tmp_path):
    by_age = [entry(tmp_path, number, age) for number, age in enumerate((40, 30, 20, 10))]
    assert evicted(tmp_path, 2, by_age[:2]) == set(by_age[2:])
    assert evicted(tmp_path, 2, by_age[:2]) == set()
    with pytest.raises(InputError, match=r"must hold 0\.00 GB of tokens, but config\.here is 1"):
        evict(tmp_path, set(by_age[:2]), 1.999e-6, "tokens", "config.here")
    assert {path.name for path in tmp_path.iterdir()} == set(by_age[:2])


def test_only_what_killed_processes_left_is_cleared_away(tmp_path):
    """A temporary folder in use and a stranger's folder are left alone, however full it is."""
    for name, age in (("old", STALE_SECONDS + 60), ("new", STALE_SECONDS - 60)):
        (tmp_path / (TEMPORARY + name)).mkdir()
        os.utime(tmp_path / (TEMPORARY + name), (time.time() - age,) * 2)
    (tmp_path / "strangers").mkdir()
    assert evicted(tmp_path, 0) == {TEMPORARY + "old"}


def test_an_entry_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), writing(tmp_path / "entry") as temporary:
        (temporary / "a").write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())
    for content in ("first", "second"):  # of two processes, the faster one's stays
        with writing(tmp_path / "entry") as temporary:
            (temporary / "a").write_text(content)
    assert [p.name for p in tmp_path.iterdir()] == ["entry"]
    assert (tmp_path / "entry" / "a").read_text() == "first"
