"""The cache of prepared cases: bounded, safe between writers, and nothing in use goes."""

import os
import shutil
import threading
import time

import numpy as np
import pytest

from lagseg_jax.data import disk_cache
from lagseg_jax.data import prepare as module
from lagseg_jax.data.disk_cache import TEMPORARY
from lagseg_jax.runtime.errors import InputError
from prepared import names, prepare, write_case


def used(entry, days_ago):
    seconds = time.time() - days_ago * 24 * 3600
    os.utime(entry, (seconds, seconds))


def test_a_killed_writer_is_harmless_and_cleaned_up_later(cases, folder):
    prepare(cases[:1], folder)
    for name, age in ((f"{TEMPORARY}recent", 0.9), (f"{TEMPORARY}stale", 1.1)):
        (folder / name).mkdir()
        (folder / name / "images.npy").write_bytes(b"half")
        used(folder / name, age)
    prepared = prepare(cases[:2], folder)
    assert len(prepared) == 2 and len(names(folder)) == 3
    assert {n for n in names(folder) if n.startswith(TEMPORARY)} == {f"{TEMPORARY}recent"}


def test_a_kill_while_evicting_leaves_no_broken_entry(cases, folder, monkeypatch):
    before = prepare(cases[:1], folder)[0]
    images = np.array(before.images)
    bound = 1.5 * entry_bytes(folder) / 1e9

    def killed_half_way(path, **_):
        next(path.rglob("*.npy")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(disk_cache.shutil, "rmtree", killed_half_way)
        with pytest.raises(KeyboardInterrupt):
            prepare(cases[1:2], folder, max_gb=bound)
    np.testing.assert_array_equal(prepare(cases[:1], folder)[0].images, images)


def entry_bytes(folder):
    return max(sum(f.stat().st_size for f in entry.iterdir()) for entry in folder.iterdir())


def keys_of(cases, folder):
    """The entry of every case, told apart by preparing one after the other."""
    keys = []
    for case in cases:
        before = names(folder) if folder.exists() else set()
        prepare([case], folder)
        keys += names(folder) - before
    return keys


def test_the_least_recently_used_entries_go_first(cases, folder):
    keys = keys_of(cases, folder)
    bound = 3.5 * entry_bytes(folder) / 1e9
    for days, key in zip((3, 1, 2), keys):  # case 0 was used longest ago, then case 2
        used(folder / key, days)
    prepare([write_case(cases[0].image.parent, 7)], folder, max_gb=bound)
    assert keys[0] not in names(folder) and set(keys[1:]) < names(folder)
    prepare([cases[1]], folder, max_gb=bound * 2.3 / 3.5)
    assert names(folder) >= {keys[1]} and keys[2] not in names(folder)
    assert len(names(folder)) == 2


def test_opening_an_entry_counts_as_use(cases, folder):
    (key,) = keys_of(cases[:1], folder)
    used(folder / key, 1)
    prepare(cases[:1], folder)
    assert time.time() - (folder / key).stat().st_mtime < 3600


def test_entries_in_use_are_never_evicted(cases, folder):
    keys = keys_of(cases, folder)
    for key, days_ago in zip(keys, (1, -1, -1)):  # another run opens the others from now on
        used(folder / key, days_ago)
    prepare(cases[:1], folder, max_gb=1.5 * entry_bytes(folder) / 1e9)
    assert names(folder) == {keys[0]}


def test_a_bound_below_what_is_needed_is_refused(cases, folder):
    prepare(cases[:1], folder)
    bound = 2.5 * entry_bytes(folder) / 1e9
    with pytest.raises(InputError, match=rf"{folder} must hold .* but config\.data\.cache_gb is"):
        prepare(cases, folder, max_gb=bound)


def test_what_else_lies_in_the_folder_is_left_alone(cases, folder):
    """Someone may point `config.data.cache_dir` at a folder with other things in it."""
    keys = keys_of(cases[:1], folder)
    bound = 1.5 * entry_bytes(folder) / 1e9
    (folder / "my study").mkdir()
    (folder / "my study" / "scan.nii.gz").write_bytes(b"precious")
    (folder / "notes.txt").write_text("precious")
    for name in ("my study", "notes.txt"):
        used(folder / name, 100)
    prepare(cases[1:2], folder, max_gb=bound)
    assert keys[0] not in names(folder)
    assert (folder / "my study" / "scan.nii.gz").exists() and (folder / "notes.txt").exists()


def test_two_writers_of_the_same_case(cases, folder, monkeypatch):
    read = module.inspect_case
    both_decode = threading.Barrier(2, timeout=20)

    def read_together(*files):
        both_decode.wait()
        return read(*files)

    monkeypatch.setattr(module, "inspect_case", read_together)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(prepare(cases[:1], folder)[0]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = results
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.masks, second.masks)
    assert len(names(folder)) == 1  # one entry, and nothing half-written


def test_prepared_cases_stay_readable_when_another_run_evicts_them(cases, folder):
    prepared = prepare(cases[:1], folder)[0]
    images = np.array(prepared.images)
    shutil.rmtree(folder)
    np.testing.assert_array_equal(prepared.images, images)
