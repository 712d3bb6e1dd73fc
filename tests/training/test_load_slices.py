"""What `config.data` says reaches the files; parts come apart as they went in."""

import numpy as np
import pytest

import tiny_run
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.runs.planes import read_planes
from lagseg_jax.runs.training_range import read_training_range
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.training.load_slices import load_slices


@pytest.fixture
def split(phantom):
    cases = detect(phantom).cases
    return {"train": cases[:3], "validation": cases[3:5], "test": cases[5:]}


def load(phantom, workdir, split, **data):
    config = tiny_run.config(phantom)
    config.data.update({"cache_dir": str(workdir / "cache")} | data)
    return load_slices(config, workdir, split, None, None)  # no model: no tokens are wanted


def test_parts_and_planes(phantom, tmp_path, split):
    training, validation = load(phantom, tmp_path, split)
    assert [case.name for case in training.cases] == [case.name for case in split["train"]]
    assert [case.name for case in validation.cases] == [case.name for case in split["validation"]]
    assert len(training) == 33 and len(validation) == 22  # of 11 slices
    assert list(read_planes(tmp_path)) == ["axial"]
    row = training[12]
    assert row["case"] == 1 and row["image"].shape == row["mask"].shape == (42, 42)
    np.testing.assert_array_equal(row["image"], training.cases[1].images[1])


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("max_gb", 1e-6, "at most 1000"),
        ("label_value", 7, "label_value=7"),
        ("label_threshold", 500.0, "label_threshold=500"),
    ],
)
def test_settings_reach_the_files(phantom, tmp_path, split, field, value, expected):
    for part in split:  # the test cases, too, before a training
        alone = {name: cases if name == part else [] for name, cases in split.items()}
        with pytest.raises(InputError, match=expected):
            load(phantom, tmp_path, alone, **{field: value})


def test_what_an_older_run_left_says_nothing_of_the_training_cases(phantom, tmp_path, split):
    load(phantom, tmp_path, split)
    first = read_training_range(tmp_path)
    other = split | {"train": split["test"], "test": split["train"]}
    load(phantom, tmp_path, other)  # its checkpoints were deleted
    second = read_training_range(tmp_path)
    assert len(first["volume_ml"]) == 3 and len(second["volume_ml"]) == 1
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    load(phantom, tmp_path, split)
    assert read_training_range(tmp_path) == second


def test_a_told_plane_is_cut(phantom, tmp_path, split):
    training, _ = load(phantom, tmp_path, split, plane="sagittal")
    assert list(read_planes(tmp_path)) == ["sagittal"]
    assert len(training.cases[0].images) == 47
