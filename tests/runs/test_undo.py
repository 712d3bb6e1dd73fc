"""A training that is refused leaves its workdir as it was, one that has begun keeps everything."""

import pytest

from lagseg_jax.runs.undo import undone_if_refused
from lagseg_jax.runtime.errors import InputError


def refuse(workdir, error, *made):
    with pytest.raises(error), undone_if_refused(workdir):
        for name in made:
            (workdir / name).parent.mkdir(parents=True, exist_ok=True)
            (workdir / name).write_text("new")
        raise error("refused")


def names(workdir):
    return {str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file()}


def test_records_and_folders_that_are_new_go_and_others_are_as_they_were(tmp_path):
    (tmp_path / "splits.json").write_text("mine")
    (tmp_path / "notes.txt").touch()
    made = "config.json", "splits.json", "voxels.json", "phantom/phantom.json", "strange.txt"
    refuse(tmp_path, InputError, *made)
    assert names(tmp_path) == {"splits.json", "notes.txt", "strange.txt"}
    assert (tmp_path / "splits.json").read_text() == "mine"


@pytest.mark.parametrize("begun", ["metrics.jsonl", "checkpoints/2/state"])
def test_what_has_begun_and_what_breaks_is_kept(tmp_path, begun):
    refuse(tmp_path, InputError, "config.json", begun)
    assert names(tmp_path) == {"config.json", begun}
    refuse(tmp_path, InputError, "splits.json")
    refuse(tmp_path, OSError, "planes.json")
    assert names(tmp_path) == {"config.json", begun, "splits.json", "planes.json"}
