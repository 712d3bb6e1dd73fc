"""Hashes of files are kept as long as nothing can have changed."""

import json
import shutil

from changed_files import case_file, change, config_of
from lagseg_jax.data import contents
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.data.run_split import load_split
from lagseg_jax.runtime.files import file_sha256


def test_a_second_start_reads_no_file_again_and_a_changed_one_is_seen(
    phantom, tmp_path, monkeypatch
):
    root = shutil.copytree(phantom, tmp_path / "data")
    config = config_of(root, cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "SETTLED_SECONDS", -1)
    load_split(config, tmp_path / "run")
    read = []

    def reading(path, files):
        read.append(path)
        return file_sha256(path)

    monkeypatch.setattr(contents, "content_sha256", reading)
    before = json.loads((tmp_path / "run" / "splits.json").read_text())["sha256"]
    load_split(config, tmp_path / "again")
    assert not read
    assert json.loads((tmp_path / "again" / "splits.json").read_text())["sha256"] == before
    changed = case_file(root, "train_1", "label")
    change(changed)
    load_split(config, tmp_path / "third")
    now = json.loads((tmp_path / "third" / "splits.json").read_text())["sha256"]
    assert read == [changed] and now["train_1"]["label"] == file_sha256(changed)
    for damage in (b"", b"[]", b'{"a": 3}'):
        for file in (tmp_path / "cache").glob("hashes-*.json"):
            file.write_bytes(damage)
        read.clear()
        load_split(config, tmp_path / "fourth")
        assert len(read) == 12


def test_hashes_of_files_that_have_just_changed_are_not_kept(phantom, tmp_path, monkeypatch):
    """Within one tick of a clock, a second change would not show."""
    cases = detect(shutil.copytree(phantom, tmp_path / "data")).cases
    monkeypatch.setattr(contents, "SETTLED_SECONDS", 3600)
    contents.hash_cases(cases, tmp_path)
    (kept,) = tmp_path.glob("hashes-*.json")
    assert json.loads(kept.read_text()) == {}
