"""Folders with one-byte files in the layouts of the four publishers: detection opens no volume."""

import json
import sys
from pathlib import Path

import pytest

from lagseg_jax.data.cases import Case
from lagseg_jax.data.contents import hash_cases
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.data.patients import group_duplicates
from lagseg_jax.imaging.labels import read_label
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.runtime.errors import InputError
from small_files import make

REAL = Path(__file__).parents[3] / "shared" / "data" / "la2018"


def lascarqs(root, numbers=(1, 2, 10), scar=False):
    files = ["enhanced", "atriumSegImgMO"] + ["scarSegImgM"] * scar
    return make(root, *(f"train_{n}/{file}.nii.gz" for n in numbers for file in files))


def names(dataset):
    return [case.name for case in dataset.cases]


def refused(root, *expected):
    with pytest.raises(InputError) as error:
        detect(root)
    message = str(error.value)
    assert "\n" not in message
    for text in expected:
        assert str(text) in message
    return message


@pytest.mark.parametrize("levels", ["", "train_data", "task2/train_data"])
@pytest.mark.parametrize("scar", [False, True])
def test_lascarqs_is_found_up_to_two_levels_below(tmp_path, levels, scar):
    folder = lascarqs(tmp_path / levels, scar=scar)
    dataset = detect(tmp_path)
    assert (dataset.layout, dataset.root, dataset.unlabelled) == ("LAScarQS 2022", folder, 0)
    assert names(dataset) == ["train_1", "train_2", "train_10"]
    last = folder / "train_10"
    images = (last / "enhanced.nii.gz", last / "atriumSegImgMO.nii.gz")
    assert dataset.cases[-1] == Case("train_10", "train_10", *images)


def test_three_levels_are_too_deep(tmp_path):
    lascarqs(tmp_path / "a/b/c")
    refused(tmp_path, "unknown layout")


def test_both_lascarqs_tasks_need_a_choice(tmp_path):
    one, two = (lascarqs(tmp_path / f"task{n}" / "train_data") for n in (1, 2))
    refused(tmp_path, one, two)
    assert detect(tmp_path / "task2").root == two


def test_unlabelled_folders_beside_the_training_data_are_counted(tmp_path):
    lascarqs(tmp_path / "task2/train_data")
    make(tmp_path, "task2_val/val_1/enhanced.nii.gz", "task2_val/val_2/enhanced.nii.gz")
    dataset = detect(tmp_path)
    assert len(dataset.cases) == 3 and dataset.unlabelled == 2


def test_folder_names_of_the_later_lascarqs_release(tmp_path):
    root = tmp_path / "LA cavity segmentation\uff08MRI\uff09"
    lascarqs(root / "train_data")
    assert len(detect(root).cases) == 3


def test_2018_challenge(tmp_path):
    ids = ["0RZDK210BSMWAA6467LU", "1D7CUD1955YZPGK8XHJX"]
    files = ("lgemri.nrrd", "laendo.nrrd", "lawall.nrrd")
    make(tmp_path, *(f"Training Set/{name}/{file}" for name in ids for file in files))
    dataset = detect(tmp_path)
    assert dataset.layout == "2018 Atrial Segmentation Challenge" and names(dataset) == ids
    assert dataset.cases[0].label == tmp_path / "Training Set" / ids[0] / "laendo.nrrd"


def test_decathlon(tmp_path):
    root = tmp_path / "Task02_Heart"
    make(
        root, *(f"{part}/la_0{n}.nii.gz" for n in ("03", "20") for part in ("imagesTr", "labelsTr"))
    )
    make(root, "imagesTr/._la_003.nii.gz", "labelsTr/._la_003.nii.gz", "imagesTs/la_001.nii.gz")
    (root / "dataset.json").write_text('{"name": "LeftAtrium", "labels": {"1": "left atrium"}}')
    dataset = detect(tmp_path)
    assert (dataset.layout, dataset.root, dataset.unlabelled) == ("MSD Task02", root, 1)
    assert names(dataset) == ["la_003", "la_020"]
    assert dataset.cases[1].label == root / "labelsTr/la_020.nii.gz"


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize("described", [True, False])
def test_nnunet_raw(tmp_path, ending, described):
    root = tmp_path / "Dataset501_Atrium"
    for case in ("LA_2", "LA_10"):
        make(root, f"imagesTr/{case}_0000{ending}", f"labelsTr/{case}{ending}")
    make(root, f"imagesTs/LA_3_0000{ending}")
    if described:
        (root / "dataset.json").write_text(json.dumps({"file_ending": ending}))
    dataset = detect(tmp_path)
    assert (dataset.layout, dataset.unlabelled) == ("nnU-Net raw", 1)
    assert names(dataset) == ["LA_2", "LA_10"]
    assert dataset.cases[0].image == root / f"imagesTr/LA_2_0000{ending}"
    assert dataset.cases[0].label == root / f"labelsTr/LA_2{ending}"


def test_nnunet_file_ending_selects(tmp_path):
    make(tmp_path, "imagesTr/a_0000.nrrd", "labelsTr/a.nrrd", "imagesTr/a_0000.nii.gz")
    refused(tmp_path, "a_0000.nii.gz", "a_0000.nrrd")
    (tmp_path / "dataset.json").write_text('{"file_ending": ".nrrd"}')
    assert [case.image.name for case in detect(tmp_path).cases] == ["a_0000.nrrd"]
    (tmp_path / "dataset.json").write_text('{"file_ending": ".png"}')
    refused(tmp_path, "dataset.json", "'.png'", ".nii.gz")


def test_nnunet_with_two_channels(tmp_path):
    make(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    refused(tmp_path, "a_0001.nii.gz", "channel")


# Python 3.13 points at the comma itself, older ones at what follows it.
STRAY_COMMA = "line 2 column 18" if sys.version_info >= (3, 13) else "line 3 column 1"


@pytest.mark.parametrize(
    "content, expected",
    [
        (b'{"labels": {"LA": 1},\n "numTraining": 2,\n}', STRAY_COMMA),
        (b'{"labels": {"LA": 1}\n "numTraining": 2}', "line 2 column 2"),  # a missing comma
        (b'["imagesTr"]', "list"),
        (b'{"name": "\xff"}', "position 10"),
        (b"", "line 1 column 1"),
    ],
)
def test_malformed_dataset_json(tmp_path, content, expected):
    make(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (tmp_path / "dataset.json").write_bytes(content)
    refused(tmp_path, tmp_path / "dataset.json", expected)


def test_four_digits_are_a_channel_only_where_no_label_has_them(tmp_path):
    """MSD's names may end so, too; so may cases of nnU-Net."""
    names = [f"patient_{number:04}" for number in range(3)]
    images = [f"imagesTr/{name}.nii.gz" for name in names]
    make(tmp_path / "msd", *images, *(f"labelsTr/{name}.nii.gz" for name in names[1:]))
    dataset = detect(tmp_path / "msd")
    assert dataset.layout == "MSD Task02"
    assert [case.label.name for case in dataset.cases] == [f"{name}.nii.gz" for name in names]
    make(tmp_path / "raw", *(f"imagesTr/{name}_0000.nii.gz" for name in ["patient", *names]))
    make(tmp_path / "raw", *(f"labelsTr/{name}.nii.gz" for name in ["patient", *names]))
    dataset = detect(tmp_path / "raw")
    assert dataset.layout == "nnU-Net raw"
    assert [case.name for case in dataset.cases] == ["patient", *names]


@pytest.mark.parametrize(
    "files, where, expected",
    [
        (("train_1/enhanced.nii.gz",), "train_1", "atriumSegImgMO.nii.gz"),
        (("ID/lgemri.nrrd", "ID2/lgemri.nrrd", "ID2/laendo.nrrd"), "ID", "laendo.nrrd"),
        (("imagesTr/la_003.nii.gz",), "imagesTr", "labelsTr/la_003.nii.gz"),
        (("imagesTr/a_0000.nii.gz", "labelsTr/b.nii.gz"), "imagesTr", "labelsTr/a.nii.gz"),
    ],
)
def test_a_missing_label_does_not_hide_the_case(tmp_path, files, where, expected):
    """Where the label ought to be stands in the case, so that a check of all cases can say so."""
    if where == "train_1":
        lascarqs(tmp_path, numbers=(2, 3))
    make(tmp_path, *files)
    (case,) = [case for case in detect(tmp_path).cases if not case.label.is_file()]
    assert str(case.image).startswith(str(tmp_path / where))
    assert str(case.label).endswith(expected)


def test_links_to_nothing_do_not_hide_the_case(tmp_path):
    lascarqs(tmp_path)
    for name, file in (("train_1", "enhanced"), ("train_2", "atriumSegImgMO")):
        path = tmp_path / name / f"{file}.nii.gz"
        path.unlink()
        path.symlink_to(tmp_path / "gone.nii.gz")
    (tmp_path / "train_10" / "enhanced.nii.gz").unlink()
    assert names(detect(tmp_path)) == ["train_1", "train_2", "train_10"]


def test_files_that_cannot_be_read_are_not_taken_for_copies(tmp_path):
    cases = [Case(name, name, tmp_path / f"{name}.nii", None) for name in "abc"]
    assert len({one.patient for one in group_duplicates(cases, hash_cases(cases))}) == 3


def test_dataset_json_from_notepad(tmp_path):
    make(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (tmp_path / "dataset.json").write_bytes(b'\xef\xbb\xbf{"file_ending": ".nii.gz"}')
    assert names(detect(tmp_path)) == ["a"]


def test_images_without_any_label(tmp_path):
    make(tmp_path, "val_1/enhanced.nii.gz", "val_2/enhanced.nii.gz")
    refused(tmp_path, "without labels", tmp_path / "val_1", "atriumSegImgMO.nii.gz")


def test_no_dataset(tmp_path):
    refused(tmp_path / "missing", "no such folder")
    refused(make(tmp_path, "a.nii.gz") / "a.nii.gz", "no such folder")
    line = "--config.data.images='*_image.nii.gz' --config.data.labels='*_mask.nii.gz'"
    refused(tmp_path, "unknown layout (a.nii.gz)", "no CASE_mask.nii.gz", line)
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty", ".DS_Store")
    refused(tmp_path / "empty", "empty folder")


def test_numbers_sort_as_numbers_and_dot_folders_are_skipped(tmp_path):
    lascarqs(tmp_path, numbers=(100, 9, 21))
    make(tmp_path, ".trash/enhanced.nii.gz", ".trash/atriumSegImgMO.nii.gz")
    assert names(detect(tmp_path)) == ["train_9", "train_21", "train_100"]


def test_copies_of_an_image_are_one_patient(tmp_path):
    def case(name, content, patient=None):
        (tmp_path / name).write_bytes(content)
        return Case(name, patient or name, tmp_path / name, None)

    cases = [case("a", b"1"), case("b", b"2"), case("c", b"1"), case("d", b"3"), case("e", b"1")]
    grouped = group_duplicates(cases, hash_cases(cases))
    assert [one.patient for one in grouped] == ["a", "b", "a", "d", "a"]
    assert [(one.name, one.image) for one in grouped] == [(one.name, one.image) for one in cases]
    # i makes r and q one person, then j makes these p.
    chain = [case("f", b"4", "p"), case("g", b"5", "q"), case("h", b"6", "r")]
    chain += [case("i", b"5", "r"), case("j", b"4", "q"), case("k", b"7", "r")]
    assert {one.patient for one in group_duplicates(chain, hash_cases(chain))} == {"p"}


@pytest.mark.skipif(not REAL.is_dir(), reason="the 24 real volumes are not here")
def test_real_volumes():
    dataset = detect(REAL)
    assert (dataset.layout, len(dataset.cases), dataset.unlabelled) == ("LAScarQS 2022", 24, 0)
    assert names(dataset) == [f"train_{n}" for n in range(1, 25)]
    assert (
        len({case.patient for case in group_duplicates(dataset.cases, hash_cases(dataset.cases))})
        == 24
    )
    image = read_volume(dataset.cases[0].image)
    label = read_label(dataset.cases[0].label)
    assert image.array.shape == label.array.shape and image.spacing == (0.625, 0.625, 0.625)
    assert 20 < label.array.sum() * 0.625**3 / 1000 < 300  # mL
