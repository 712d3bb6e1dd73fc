"""Datasets of DICOM folders with a label each, found without a table."""

import pytest

from lagseg_jax.data.contents import hash_cases
from lagseg_jax.data.layouts.detect import detect, find_layouts
from lagseg_jax.runtime.errors import InputError
from small_files import make


def series(folder, *names):
    """Files that begin as DICOM does; what is in them does not matter here."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("1.dcm", "2.dcm"):
        (folder / name).write_bytes(bytes(128) + b"DICM" + name.encode())


def found(root):
    """{case: (image, label)}, paths below the root."""
    cases = detect(root).cases
    return {c.name: tuple(str(p.relative_to(root)) for p in (c.image, c.label)) for c in cases}


def test_series_beside_labels(tmp_path):
    """A file, a segmentation object or a folder with either; what lacks its partner is a case."""
    for name in ("P2", "P10", "P11", "P12"):
        series(tmp_path / "images" / name)
    series(tmp_path / "labels", "P10.dcm")
    series(tmp_path / "labels" / "P11", "any.dcm")
    make(tmp_path, "labels/P2.nii.gz", "labels/P13.nrrd", "labels/notes.txt")
    assert found(tmp_path) == {
        "P2": ("images/P2", "labels/P2.nii.gz"),
        "P10": ("images/P10", "labels/P10.dcm"),
        "P11": ("images/P11", "labels/P11/any.dcm"),
        "P12": ("images/P12", "labels/P12.nii.gz"),
        "P13": ("images/P13", "labels/P13.nrrd"),
    }


def test_one_series_per_patient(tmp_path):
    """Right in the folder, without suffixes, in a folder of its own, with a label in one."""
    series(tmp_path / "P1")
    series(tmp_path / "P2", "IM0001", "IM0002", "LA_seg.dcm")
    series(tmp_path / "P3" / "lge" / "series_7")
    series(tmp_path / "P4" / "lge")
    series(tmp_path / "P4" / "seg", "x.dcm")
    series(tmp_path / "P5")
    make(tmp_path, "P1/la_label.nii.gz", "P3/mask.nrrd", "docs/readme.txt")
    assert found(tmp_path) == {
        "P1": ("P1", "P1/la_label.nii.gz"),
        "P2": ("P2", "P2/LA_seg.dcm"),
        "P3": ("P3/lge/series_7", "P3/mask.nrrd"),
        "P4": ("P4/lge", "P4/seg/x.dcm"),
    }
    assert [case.name for case in detect(tmp_path).others] == ["P5"]


def test_a_label_in_the_folder_of_its_image_is_not_part_of_it(tmp_path):
    series(tmp_path / "P1")
    make(tmp_path, "P1/seg.nii.gz")
    cases = detect(tmp_path).cases
    before = hash_cases(cases)["P1"]
    (tmp_path / "P1" / "seg.nii.gz").write_bytes(b"corrected")
    corrected = hash_cases(cases)["P1"]
    assert corrected["image"] == before["image"] and corrected["label"] != before["label"]
    (tmp_path / "P1" / "1.dcm").write_bytes(bytes(128) + b"DICM" + b"another")
    assert hash_cases(cases)["P1"]["image"] != before["image"]


def test_several_labels_are_listed_and_scans_alone_are_no_dataset(tmp_path):
    series(tmp_path / "P1")
    series(tmp_path / "P2")
    assert find_layouts(tmp_path) == []
    make(tmp_path, "P2/seg_a.nii.gz", "P2/seg_b.nii.gz")
    with pytest.raises(InputError, match=r"P2: .*2 labels found \(.*seg_a.*, .*seg_b.*cases\.csv"):
        detect(tmp_path)
    assert find_layouts(tmp_path, series=False) == []
