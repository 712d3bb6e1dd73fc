"""predict: which files are taken, and what a scan is called."""

import logging
import os
import shutil

import numpy as np
import pytest

from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.inference.inputs import Input, find_inputs
from lagseg_jax.inference.records import Record, run_identity
from lagseg_jax.runtime.errors import InputError
from predict_calls import call, names_in, rows_of, scan

pytestmark = pytest.mark.usefixtures("console_for_caplog")


def test_dataset_and_dicom_folders(finished_run, phantom, tmp_path, caplog):
    """The same patient as NIfTI and as DICOM gets the same atrium."""
    pytest.importorskip("pydicom")
    import dicom_series

    caplog.set_level(logging.INFO, "lagseg_jax")
    assert call("--workdir", finished_run, "-i", phantom, "-o", tmp_path / "a") == 0
    assert names_in(tmp_path / "a") == [f"train_{n}.nii.gz" for n in range(1, 7)]
    assert "LAScarQS" in caplog.text
    image = read_volume(phantom / "task2" / "train_data" / "train_1" / "enhanced.nii.gz")
    planes, _ = to_slices(image.array, image.affine)
    spacing = (image.spacing[1], image.spacing[0], image.spacing[2])
    for name in ("patient 1/LGE", "patient 2"):
        dicom_series.write_series(tmp_path / "dicom" / name, planes, spacing=spacing)
    options = ("-i", tmp_path / "dicom", "-o", tmp_path / "b")
    assert call("--workdir", finished_run, *options) == 0
    names = names_in(tmp_path / "b")
    assert names == ["patient 1_LGE.nii.gz", "patient 2.nii.gz"]
    expected = read_volume(tmp_path / "a" / "train_1.nii.gz")
    found = read_volume(tmp_path / "b" / "patient 2.nii.gz")
    np.testing.assert_array_equal(
        to_slices(found.array, found.affine)[0], to_slices(expected.array, expected.affine)[0]
    )


def test_a_whole_dicom_study(finished_run, phantom, tmp_path, caplog, capsys):
    """As folder and archive: one mask; the others are skipped, what is ambiguous is refused."""
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    import dicom_series

    caplog.set_level(logging.INFO, "lagseg_jax")
    image = read_volume(phantom / "task2" / "train_data" / "train_1" / "enhanced.nii.gz")
    planes, _ = to_slices(image.array, image.affine)
    dicom_series.write_study(tmp_path / "cd", planes)
    dicom_series.zipped(tmp_path / "cd", tmp_path / "patient 7.zip")
    for source, name in (("cd", "DICOM_lge"), ("patient 7.zip", "patient 7_DICOM_lge")):
        out = tmp_path / f"masks of {source}"
        options = ("--workdir", finished_run, "-i", tmp_path / source, "-o", out)
        assert call(*options) == 0 and names_in(out) == [f"{name}.nii.gz"]
        caplog.clear()
        assert call(*options, "--resume") == 0
        assert "cases already there: 1" in caplog.text
        assert "series 3 (3D CE-MRA pulmonary veins, " in caplog.text
        assert call(*options, "--resume", "--series", "sax") == 2
        assert "--series is 'sax', but " in capsys.readouterr().err
    options = ("--workdir", finished_run, "-i", tmp_path / "cd", "-o", tmp_path / "seg")
    assert call(*options, "--dicom_seg", "--rtstruct") == 0
    structures = pydicom.dcmread(tmp_path / "seg" / "structures" / "DICOM_lge.dcm")
    assert structures.Modality == "RTSTRUCT" and structures.ROIContourSequence[0].ContourSequence
    seg = tmp_path / "seg" / "segmentations" / "DICOM_lge.dcm"
    found = pydicom.dcmread(seg)
    mask = read_volume(tmp_path / "seg" / "DICOM_lge.nii.gz").array
    planes = found.pixel_array[dicom_series.order_of_frames(found)]
    np.testing.assert_array_equal(planes[:, ::-1].T, mask)
    # The encoder of this run is random, and the images have no more than their voxels in common
    # with those of the training: who sees nothing but the object is told, too.
    row = Record.of(tmp_path / "seg", "DICOM_lge").content["row"]
    for described in (
        found.SegmentSequence[0].SegmentDescription,
        structures.StructureSetROISequence[0].ROIDescription,
    ):
        assert described == f"Research use only. Remarks: the encoder is random; {row['remarks']}"
    assert (
        row["remarks"]
        and mask.any()
        and run_identity(finished_run)["sha256"].encode() in seg.read_bytes()
    )
    caplog.clear()
    assert call(*options, "--dicom_seg", "--resume") == 0 and "already there: 1" in caplog.text
    before = seg.stat().st_mtime_ns
    assert call(*options, "--dicom_seg") == 0 and seg.stat().st_mtime_ns > before
    assert pydicom.dcmread(seg).SOPInstanceUID == found.SOPInstanceUID  # not twice in a PACS
    options = ("--workdir", finished_run, "-o", tmp_path / "x")
    for option in ("--dicom_seg", "--rtstruct"):
        assert call(*options, "-i", phantom, option) == 2
        said = capsys.readouterr().err
        assert f"{option} is given, but " in said and "is no DICOM series, expected one" in said
    assert call(*options, "-i", phantom, "--series", "5") == 2
    assert "has no DICOM studies" in capsys.readouterr().err and not (tmp_path / "x").exists()
    written = [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".csv")]
    assert written and not any(b"Secret" in path.read_bytes() for path in written)


def test_one_bad_study_among_several_is_reported_and_the_others_go_on(
    finished_run, phantom, tmp_path, caplog
):
    pytest.importorskip("pydicom")
    import dicom_series

    image = read_volume(phantom / "task2" / "train_data" / "train_1" / "enhanced.nii.gz")
    planes, _ = to_slices(image.array, image.affine)
    for name in ("a", "b"):
        paths = dicom_series.write_series(tmp_path / "dicom" / name, planes)
    paths[3].unlink()
    options = ("--workdir", finished_run, "-i", tmp_path / "dicom", "-o", tmp_path / "out")
    assert call(*options) == 2 and names_in(tmp_path / "out") == ["a.nii.gz"]
    assert "2/2 error: " in caplog.text and "7.000 mm between" in caplog.text


def test_names_of_studies_that_are_linked_or_lie_in_one_folder(tmp_path):
    pytest.importorskip("pydicom")
    import dicom_series

    pixels = np.random.default_rng(0).integers(0, 4096, (3, 5, 7)).astype(np.uint16)
    for name in ("a", "b"):
        place, files = tmp_path / "store" / name, name + "{:04d}"
        dicom_series.write_series(place, pixels, names=files)
        dicom_series.write_series(tmp_path / "flat", pixels, names=files)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "p1").symlink_to(tmp_path / "store" / "a")
    assert [one.name for one in find_inputs(tmp_path / "set")] == ["p1"]
    first, second = (one.name for one in find_inputs(tmp_path / "flat"))
    assert first != second and first.startswith("flat_") and second.startswith("flat_")
    assert [one.name for one in find_inputs(tmp_path / "store")] == ["a", "b"]


def test_find_inputs(tmp_path, phantom):
    path = tmp_path / "x.nii"
    path.touch()
    assert find_inputs(path) == [Input(path, "x.nii")]
    with pytest.raises(InputError, match="does not exist"):
        find_inputs(tmp_path / "y.nii")
    (tmp_path / "x.nrrd").touch()
    with pytest.raises(InputError, match="both named x"):
        find_inputs(tmp_path)
    for task in ("task1", "task2"):
        for number in (2, 10):
            case = tmp_path / "two" / task / f"train_{number}"
            case.mkdir(parents=True)
            (case / "enhanced.nii.gz").touch()
    names = [one.mask_name for one in find_inputs(tmp_path / "two" / "task1")]
    assert names == ["train_2.nii.gz", "train_10.nii.gz"]
    with pytest.raises(InputError, match="both named train_2"):
        find_inputs(tmp_path / "two")
    pytest.importorskip("pydicom")
    import dicom_series

    (single,) = dicom_series.write_series(tmp_path / "one", np.zeros((1, 5, 7), np.uint16))
    with pytest.raises(InputError, match="the folder of its whole series"):
        find_inputs(single)


def test_masks_are_no_images(finished_run, phantom, one_case, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lagseg_jax")
    folder, out = one_case.parent, tmp_path / "out"
    mask = np.zeros((47, 43, 11), np.uint8)
    mask[20:30, 20:30, 3:9] = 1
    scan(phantom, folder / "a_seg.nii.gz", voxels=mask)
    scan(phantom, folder / "a_laseg.nii.gz", voxels=mask)
    scan(phantom, folder / "b.nii.gz", voxels=mask)
    scan(phantom, folder / "c_mask.nii.gz")  # no c beside it: an image of that name
    assert call("--workdir", finished_run, "-i", folder, "-o", out) == 2
    assert all(f"{name}.nii.gz: skipped" in caplog.text for name in ("a_seg", "a_laseg"))
    assert "looks like a mask" in caplog.text
    assert names_in(out) == ["a.nii.gz", "c_mask.nii.gz"]
    with pytest.raises(InputError, match="no volume files"):
        find_inputs(out)
    with pytest.raises(InputError, match="was made by predict"):
        find_inputs(out / "a.nii.gz")


def test_inputs_of_any_naming(one_case, tmp_path):
    """Recognised as for training, or named by the same patterns and tables."""

    def lay(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(one_case, tmp_path / name)

    def found(folder, **how):
        return {one.mask_name: one.label for one in find_inputs(tmp_path / folder, **how)}

    lay("flat/P1_image.nii.gz", "flat/P1_mask.nii.gz", "flat/P2_image.nii.gz")
    assert found("flat") == {f"P{n}.nii.gz": tmp_path / f"flat/P{n}_mask.nii.gz" for n in (1, 2)}
    assert list(found("flat", images="*_image.nii.gz")) == ["P1.nii.gz", "P2.nii.gz"]
    lay("two/images/P1.nii.gz", "two/labels/P1.nii.gz", "two/labels/P9.nii.gz")
    assert list(found("two")) == ["P1.nii.gz"]  # a label without an image is no input
    lay("test/P1/lge.nii.gz", "test/P2/lge.nii.gz")  # an unlabelled test folder
    assert found("test") == {"P1.nii.gz": None, "P2.nii.gz": None}
    (tmp_path / "test/t.csv").write_text("image,label,part\nP1/lge.nii.gz,,test\n")
    assert list(found("test", images="t.csv")) == ["lge.nii.gz"]
    with pytest.raises(InputError, match=r"--images=x\*\.nii\.gz matches nothing"):
        found("flat", images="x*.nii.gz")
    with pytest.raises(InputError, match="expected one of them"):
        found("flat", images="*_image.nii.gz", pattern="*_image.nii.gz")


def test_data_on_two_levels_and_patterns(phantom, one_case):
    root = one_case.parent
    for name in ("p1", "p2"):
        (root / name).mkdir()
        scan(phantom, root / name / "x_image.nii.gz")
        scan(phantom, root / name / "x_other.nii.gz")
    with pytest.raises(InputError, match=r"two levels, a.nii.gz and p1/x_image.nii.gz"):
        find_inputs(root)
    names = [one.mask_name for one in find_inputs(root, "*_image.nii.gz")]
    assert names == ["p1_x_image.nii.gz", "p2_x_image.nii.gz"]
    assert [one.mask_name for one in find_inputs(root, "./*.nii.gz")] == ["a.nii.gz"]
    for pattern in ("/x/*", "*.png"):
        with pytest.raises(InputError, match="--pattern"):
            find_inputs(root, pattern)


def test_names_of_any_characters(finished_run, one_case, tmp_path):
    names = [b"a$x^{$", b"$5 $6", b"100%s%d", b"<b>&\"'", b"two\nlines", b"caf\xe9", b"n" * 243]
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in names:
        shutil.copy(one_case, os.path.join(os.fsencode(folder), name + b".nii.gz"))
    out = tmp_path / "out"
    assert (
        call("--workdir", finished_run, "-i", folder, "-o", out, "--preview", "--statistics") == 0
    )
    written = {os.fsencode(path.name) for path in out.glob("*.nii.gz")}
    assert written == {name + b".nii.gz" for name in names}
    assert len(list((out / "previews").iterdir())) == len(names)
    assert set(rows_of(out)) == {os.fsdecode(name) for name in names}
    assert "100%s%d" in (out / "statistics.csv").read_text("utf-8")
