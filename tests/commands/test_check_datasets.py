"""python -m lagseg_jax.check: files of any naming, several datasets, several label values."""

import json
import shutil

import numpy as np
import pytest

from check_calls import call, change
from lagseg_jax import check
from lagseg_jax.runtime.errors import InputError


def test_two_datasets_with_the_same_scan(dataset, phantom, tmp_path, capsys):
    """Another download of the same challenge: the same images under other names."""
    root, cases = dataset
    other = tmp_path / "other"
    (other / "imagesTr").mkdir(parents=True)
    (other / "labelsTr").mkdir()
    for name, target in (("enhanced", "imagesTr"), ("atriumSegImgMO", "labelsTr")):
        shutil.copy(cases / "train_5" / f"{name}.nii.gz", other / target / "la_001.nii.gz")
    assert call(root, other) == 0
    out = capsys.readouterr().out
    assert "same_file" in out and "la_001.nii.gz: the same image as" in out


def test_label_value_and_cap(dataset, capsys):
    root, _ = dataset
    assert call(root, "--label_value=420") == 0
    assert call(root, "--label_value=1") == 2
    assert "label_values" in capsys.readouterr().out
    assert call(root, "--max_gb=0.00001") == 2
    assert "at most 10000" in capsys.readouterr().out


def test_no_dataset(tmp_path, capsys):
    assert call(tmp_path / "nothing") == 2
    assert capsys.readouterr().err.count("\n") == 1


def renamed(phantom, folder, images="*_image.nii.gz", labels="*_mask.nii.gz", *values):
    """The phantoms as files of another naming; of two values, the lower slices get the first."""
    by_slice = np.where(np.arange(11) < 6, *values or (420, 420)).astype(np.int16)
    for number in range(1, 7):
        for file, pattern in (("enhanced", images), ("atriumSegImgMO", labels)):
            name = f"P{number}" + ".nii.gz" * pattern.endswith("*")
            path = folder / pattern.replace("*", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(phantom / f"task2/train_data/train_{number}/{file}.nii.gz", path)
            if values and pattern == labels:
                change(path, lambda v, a: (by_slice * (v > 0), a))
    return folder


def test_any_naming_is_recognised_or_told(phantom, tmp_path, capsys):
    root = renamed(phantom, tmp_path / "flat")
    assert call(root) == 0
    assert "pairs of files (*_image.nii.gz with *_mask.nii.gz)" in capsys.readouterr().out
    assert call(root, "--images=*_image.nii.gz", "--labels=*_mask.nii.gz", "--exclude=P[1-3]") == 0
    out = capsys.readouterr().out
    assert "dataset   *_image.nii.gz with *_mask.nii.gz, " in out and "3 with label" in out
    assert call(root, "--cases=Q1") == 2
    assert "--cases has 'Q1', which none of 6 cases" in capsys.readouterr().err
    assert call(root, "--images=*_mri.nii.gz", "--labels=*_mask.nii.gz") == 2
    assert "--images=*_mri.nii.gz matches nothing" in capsys.readouterr().err
    (root / "P1_mask.nii.gz").unlink()
    (root / "P2_image.nii.gz").unlink()
    assert call(root) == 2
    out = capsys.readouterr().out
    assert "P1_image.nii.gz: image without its label" in out
    assert "P2_mask.nii.gz: label without its image" in out


def test_several_datasets_keep_their_names(phantom, dataset, tmp_path, capsys):
    other = renamed(phantom, tmp_path / "other", "images/*", "labels/*")
    for path in other.rglob("*"):
        if path.is_file() and path.parent.name == "images":
            change(path, lambda v, a: (v + 1, a))
    assert call(dataset[0], f"paris={other}", "--json", tmp_path / "found.json") == 0
    out = capsys.readouterr().out
    assert (
        "data: LAScarQS 2022" in out
        and "paris: two folders (images/*.nii.gz with labels/*.nii.gz)" in out
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in found["datasets"]] == ["data", "paris"]
    assert {one["case"] for one in found["cases"]} >= {"data_train_1", "paris_P1"}


def test_several_label_values_are_merged(phantom, tmp_path, capsys):
    one, two = (
        renamed(phantom, tmp_path / name, "images/*", "labels/*", *values)
        for name, values in (("one", (420, 420)), ("two", (1, 2)))
    )
    assert call(two) == 2
    assert "several as (1,2)" in capsys.readouterr().out
    records = []
    for root, option in ((one, "--label_value=420"), (two, "--label_value=1,2")):
        assert call(root, option, "--json", tmp_path / "found.json") == 0
        records.append(json.loads((tmp_path / "found.json").read_text())["cases"])
    assert "labels    label values 1 and 2 are merged into one mask" in capsys.readouterr().out
    volumes = [[case["atrium_ml"] for case in cases] for cases in records]
    assert volumes[0] == volumes[1]
    assert call(two, "--label_value=(1,22)") == 2
    assert "has the value 22" in capsys.readouterr().out
    with pytest.raises(InputError, match="expected a whole number, or several"):
        check.parse_arguments([str(two), "--label_value=1,a"])


def pairs(dataset, folder, image="lge", label="laseg", numbers=(1, 2)):
    """Some of the phantoms as pairs of files; returns their folder."""
    folder.mkdir(parents=True)
    for n in numbers:
        case = dataset[1] / f"train_{n}"
        shutil.copy(case / "enhanced.nii.gz", folder / f"P{n}_{image}.nii.gz")
        shutil.copy(case / "atriumSegImgMO.nii.gz", folder / f"P{n}_{label}.nii.gz")
    return folder


def test_patterns_and_folders_in_parentheses(dataset, tmp_path, capsys):
    a = pairs(dataset, tmp_path / "a", "x", "y")
    b = pairs(dataset, tmp_path / "b", numbers=(3, 4))
    named = ("--images", "('*_x.nii.gz','')", "--labels", "('*_y.nii.gz','')")
    assert call(a, b, *named) == call(f"('{a}','{b}')", *named) == 0
    assert capsys.readouterr().out.count("4 with label") == 2


def test_cases_with_commas_and_allowed_problems_in_one_line(dataset, capsys):
    assert call(dataset[0], "--exclude=train_1,train_2", "--allow=slab") == 0
    out = capsys.readouterr().out
    assert "4 with label" in out
    assert [line for line in out.splitlines() if "slab" in line] == [
        f"allowed {'slab':17}4 found, such as train_3"
    ]
    assert call(dataset[0], "--cases=train_1,train_7") == 2
    assert "'train_7'" in capsys.readouterr().err


def test_what_is_passed_over_is_said(dataset, tmp_path, capsys):
    other = pairs(dataset, dataset[0] / "more")
    assert call(dataset[0]) == 0
    assert f"not read  {other} (" in capsys.readouterr().out


def test_a_table_in_place_of_a_folder_names_the_option(dataset, tmp_path, capsys):
    folder = pairs(dataset, tmp_path / "a")
    (folder / "cases.csv").write_text("image,label,case\nP1_lge.nii.gz,P1_laseg.nii.gz,anna\n")
    assert call(folder / "cases.csv") == 2
    assert f"--images={folder / 'cases.csv'}" in capsys.readouterr().err
    assert call(folder, "--images=cases.csv") == 0
    assert "anna        /" in capsys.readouterr().out  # slab
