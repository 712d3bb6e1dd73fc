"""python -m lagseg_jax.predict: any file, masks in its geometry, no partial or lost output."""

import json
import logging
import os
import shutil
import subprocess
import sys

import nibabel
import nrrd
import numpy as np
import pytest

from lagseg_jax import predict
from lagseg_jax.imaging.masks import clean_mask, volume_ml
from lagseg_jax.imaging.mesh import enclosed_ml
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.inference import files
from lagseg_jax.inference.inputs import Input, find_inputs
from lagseg_jax.inference.records import run_identity
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import InputError


@pytest.fixture
def inputs(phantom, tmp_path):
    """A folder with three volumes under odd names, one of them NRRD, and one that is broken."""
    folder = tmp_path / "in put"
    folder.mkdir()
    cases = phantom / "task2" / "train_data"
    shutil.copy(cases / "train_1" / "enhanced.nii.gz", folder / "Müller scan.1.nii.gz")
    volume = read_volume(cases / "train_2" / "enhanced.nii.gz")
    nibabel.save(nibabel.Nifti1Image(volume.array[..., None], volume.affine), folder / "b.nii")
    to_lps = np.diag([-1, -1, 1, 1]) @ volume.affine
    header = {
        "space": "left-posterior-superior",
        "space directions": to_lps[:3, :3].T,
        "space origin": to_lps[:3, 3],
        "encoding": "gzip",
    }
    nrrd.write(str(folder / "c.nrrd"), volume.array, header)
    (folder / "bad.nii.gz").write_bytes(b"not a volume")
    (folder / ".hidden.nii.gz").write_bytes(b"x")
    return folder


def names_in(folder):
    """What a prediction leaves right in its folder, but for the records."""
    return sorted(path.name for path in folder.iterdir() if path.name != "records")


def call(*arguments):
    return exit_status(lambda: predict.main([str(a) for a in arguments]))


@pytest.fixture(autouse=True)
def console_for_caplog(monkeypatch):
    """The command line's own handler does not propagate; let the tests read what it says."""
    monkeypatch.setattr(predict, "log_to_console", lambda: None)
    monkeypatch.setattr(logging.getLogger("lagseg_jax"), "propagate", True)


def test_folder_with_one_bad_file(finished_run, inputs, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lagseg_jax")
    output = tmp_path / "out"
    assert call("--workdir", finished_run, "-i", inputs, "-o", output) == 2
    assert names_in(output) == ["Müller scan.1.nii.gz", "b.nii", "c.nrrd"]
    for path in (output / name for name in names_in(output)):
        source, mask = read_volume(inputs / path.name), read_volume(path)
        assert mask.stored_shape == source.stored_shape
        np.testing.assert_allclose(mask.affine, source.affine, atol=1e-6)
        assert mask.array.dtype == np.uint8 and set(np.unique(mask.array)) <= {0, 1}
    assert "bad.nii.gz" in caplog.text and "1 of 4 inputs" in caplog.text
    # The NIfTI with a trailing axis and the NRRD hold the same patient.
    a, b = (read_volume(output / name).array for name in ("b.nii", "c.nrrd"))
    np.testing.assert_array_equal(a, b)


def test_review_and_only_the_cases_with_a_verdict(finished_run, inputs, tmp_path, capsys):
    output = tmp_path / "out"
    common = "--workdir", finished_run, "-i", inputs, "-o", output, "--review"
    (inputs / "bad.nii.gz").unlink()
    assert call(*common) == 0
    assert names_in(output) == ["Müller scan.1.nii.gz", "b.nii", "c.nrrd", "review", "review.html"]
    pages = {path.stem: path.read_bytes() for path in (output / "review").iterdir()}
    assert set(pages) == {"Müller scan.1", "b", "c"}
    index = (output / "review.html").read_text()
    assert 'href="./review/M%C3%BCller%20scan.1.html"' in index and "random" not in index
    # A list, as a spreadsheet leaves it; the others stay, and so do their rows.
    verdicts = tmp_path / "verdicts.csv"
    verdicts.write_bytes("\ufeffcase;verdict;note\r\nb;reject;\r\nc;accept;\r\n".encode())
    assert call(*common, "--cases", verdicts, "--verdict=reject", "--tta") == 0
    again = {path.stem: path.read_bytes() for path in (output / "review").iterdir()}
    assert set(again) == set(pages) and again["c"] == pages["c"]
    assert (output / "review.html").read_text().count('<a href="./review/') == 3
    assert call(*common, "--cases", verdicts, "--resume") == 0
    # A mask that is made anew without a page leaves no older one, and no row in the table.
    assert call(*common[:-1], "--cases", verdicts, "--verdict=accept", "--tta") == 0
    assert not (output / "review" / "c.html").exists()
    assert (output / "review.html").read_text().count('<a href="./review/') == 2
    capsys.readouterr()
    verdicts.write_text("case,verdict,note\nd,reject,\n")
    assert call(*common, "--cases", verdicts) == 2
    assert "'d' is none of the cases found here" in capsys.readouterr().err


def test_resume_skips_finished_ones(finished_run, inputs, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "lagseg_jax")
    (inputs / "bad.nii.gz").unlink()
    output = tmp_path / "out"
    assert call("--workdir", finished_run, "-i", inputs / "b.nii", "-o", output) == 0
    before = (output / "b.nii").stat().st_mtime_ns
    everything = ("--workdir", finished_run, "-i", inputs, "-o", output, "--resume")
    assert call(*everything) == 0
    assert (output / "b.nii").stat().st_mtime_ns == before
    assert len(names_in(output)) == 3 and "already there: 1" in caplog.text
    # Nothing left to do needs no model at all.
    monkeypatch.setattr("lagseg_jax.inference.predict_files._load", None)
    assert call(*everything) == 0


def test_components_flag(finished_run, inputs, tmp_path):
    from scipy import ndimage

    for keep, folder in ((1, tmp_path / "one"), (0, tmp_path / "all")):
        options = ("-i", inputs / "b.nii", "-o", folder, "--keep_components", keep)
        assert call("--workdir", finished_run, *options) == 0
    one, every = (read_volume(tmp_path / f / "b.nii").array for f in ("one", "all"))
    assert ndimage.label(one, np.ones((3, 3, 3)))[1] <= 1
    assert np.all(every >= one)


def test_refusals(finished_run, inputs, tmp_path, capsys):
    nothing = tmp_path / "nothing"
    assert call("--workdir", finished_run, "-i", nothing, "-o", tmp_path / "out") == 2
    assert str(nothing) in capsys.readouterr().err
    nothing.mkdir()
    assert call("--workdir", finished_run, "-i", nothing, "-o", tmp_path / "out") == 2
    assert ".nii.gz" in capsys.readouterr().err
    assert call("--workdir", finished_run, "-i", inputs, "-o", inputs) == 2
    assert "overwrite" in capsys.readouterr().err
    assert call("--workdir", tmp_path / "norun", "-i", inputs, "-o", tmp_path / "out") == 2
    assert "norun" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


EXTRAS = ("--preview", "--save_probabilities", "--mesh", "--statistics")
SIDE = ("previews/{}.png", "probabilities/{}.nii.gz", "meshes/{}.stl")


@pytest.fixture(scope="module")
def everything(finished_run, phantom, tmp_path_factory):
    """All outputs of two cases; arguments and output folder."""
    pytest.importorskip("skimage")
    folder = tmp_path_factory.mktemp("everything")
    (folder / "in").mkdir()
    for number in (1, 2):
        source = phantom / "task2" / "train_data" / f"train_{number}" / "enhanced.nii.gz"
        shutil.copy(source, folder / "in" / f"{number}.nii.gz")
    arguments = ["--workdir", finished_run, "-i", folder / "in", "-o", folder / "out", *EXTRAS]
    assert call(*arguments) == 0
    return arguments, folder / "out"


def rows_of(folder):
    return {
        row["case"]: row for row in json.loads((folder / "statistics.json").read_text())["cases"]
    }


def test_every_output_describes_the_same_atrium(everything, finished_run):
    _, output = everything
    names = {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()}
    expected = {place.format(n) for place in (*SIDE, "{}.nii.gz") for n in (1, 2)}
    expected |= {"records/1.json", "records/2.json"}
    assert names == expected | {"statistics.csv", "statistics.json"}
    for name, row in rows_of(output).items():
        mask = read_volume(output / f"{name}.nii.gz")
        probability = read_volume(output / "probabilities" / f"{name}.nii.gz")
        assert probability.array.dtype == np.float32
        np.testing.assert_array_equal(probability.affine, mask.affine)
        one = clean_mask((probability.array >= 0.5).astype(np.uint8), mask.spacing)
        np.testing.assert_array_equal(one, mask.array)
        assert row["voxels"] == np.count_nonzero(mask.array) > 0
        assert row["volume_ml"] == pytest.approx(volume_ml(mask.array, mask.spacing))
        assert row["components"] == 1
        stl = (output / "meshes" / f"{name}.stl").read_bytes()[84:]
        corners = np.frombuffer(
            stl, np.dtype([("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")])
        )
        assert enclosed_ml(corners["v"]) == pytest.approx(row["volume_ml"], rel=0.2)
        where = nibabel.affines.apply_affine(mask.affine, np.argwhere(mask.array)) * [-1, -1, 1]
        found = corners["v"].reshape(-1, 3)
        assert (np.abs(found.min(0) - where.min(0)) <= mask.spacing).all()
        assert (np.abs(found.max(0) - where.max(0)) <= mask.spacing).all()
    about = json.loads((output / "statistics.json").read_text())
    assert about["encoder_weights"] == "random (seed 0)" and about["workdirs"] == [
        str(finished_run)
    ]


def test_resume_wants_every_output_and_completes_the_table(everything, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lagseg_jax")
    arguments, done = everything
    output = tmp_path / "out"
    shutil.copytree(done, output)
    arguments = [output if a == done else a for a in arguments]
    (output / "meshes" / "2.stl").unlink()
    (output / "statistics.csv").unlink()
    marks = {place: (output / place.format(1)).stat().st_mtime_ns for place in SIDE}
    before = rows_of(output)
    (output / "statistics.json").unlink()
    assert call(*arguments, "--resume") == 0
    assert "cases already there: 1, to do: 1" in caplog.text
    assert (output / "meshes" / "2.stl").exists() and (output / "statistics.csv").exists()
    assert marks == {place: (output / place.format(1)).stat().st_mtime_ns for place in SIDE}
    after = rows_of(output)
    assert list(after) == ["1", "2"]
    for name in after:
        assert after[name]["voxels"] == before[name]["voxels"]
        np.testing.assert_allclose(after[name]["centroid_ras_mm"], before[name]["centroid_ras_mm"])


def test_the_mask_does_not_depend_on_the_other_outputs(everything, finished_run, tmp_path):
    arguments, done = everything
    assert call(*[tmp_path if a == done else a for a in arguments if a not in EXTRAS]) == 0
    for name in ("1.nii.gz", "2.nii.gz"):
        assert (tmp_path / name).read_bytes() == (done / name).read_bytes()


def test_a_full_disk_or_a_bad_file_costs_one_case(
    finished_run, everything, tmp_path, caplog, monkeypatch
):
    """What cannot be written is reported in its turn, and the others go on."""
    arguments, _ = everything
    real = files.write_mask

    def full(path, voxels, like):
        if path.name == "1.nii.gz":
            raise OSError(28, "No space left on device")
        real(path, voxels, like)

    monkeypatch.setattr(files, "write_mask", full)
    (tmp_path / "in").mkdir()
    for name in ("1.nii.gz", "2.nii.gz"):
        shutil.copy(arguments[3] / name, tmp_path / "in")
    (tmp_path / "in" / "0.nii.gz").write_bytes(b"not a volume")
    caplog.set_level(logging.INFO, "lagseg_jax")
    out = tmp_path / "out"
    assert call("--workdir", finished_run, "-i", tmp_path / "in", "-o", out, *EXTRAS) == 2
    text = caplog.text
    assert text.index("1/3 error") < text.index("2/3 error") < text.index("3/3 ")
    assert "No space left" in text and "2 of 3 inputs could not be used" in text
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == [
        *("2.nii.gz", "statistics.csv", "statistics.json")
    ]
    assert list(rows_of(out)) == ["2"]


@pytest.mark.parametrize("what", ["imaging.overlay.write_overlay", "inference.files.write_stl"])
def test_what_cannot_be_written_beside_a_mask_never_costs_it(
    finished_run, one_case, tmp_path, monkeypatch, caplog, what
):
    out, error = tmp_path / "out", OSError(28, "No space left on device")
    arguments = ("--workdir", finished_run, "-i", one_case, "-o", out, *EXTRAS)
    with monkeypatch.context() as patch:
        patch.setattr(f"lagseg_jax.{what}", lambda *_: (_ for _ in ()).throw(error))
        assert call(*arguments) == 1
    other = "previews/a.png" if what.endswith("overlay") else "meshes/a.stl"
    assert f"{out / other} cannot be written: No space left" in caplog.text
    assert (out / "a.nii.gz").exists() and not (out / other).exists()
    assert set(rows_of(out)) == {"a"}
    assert call(*arguments, "--resume") == 0 and (out / other).exists()


def test_an_input_too_large_for_memory_costs_one_case_and_resume_gets_past_it(
    finished_run, inputs, tmp_path, monkeypatch, caplog
):
    (inputs / "bad.nii.gz").unlink()
    wide = np.arange(701 * 709 * 2, dtype=np.int32).reshape(701, 709, 2)
    nibabel.save(nibabel.Nifti1Image(wide, np.eye(4)), inputs / "a.nii.gz")
    out = tmp_path / "out"
    arguments = ("--workdir", finished_run, "-i", inputs, "-o", out)
    for n, place, what in (
        (1, "available_bytes", "memory"),
        (0, "device_bytes", "memory of the device"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"lagseg_jax.inference.memory.{place}", lambda: 2 * 10**6)
            caplog.clear()
            resume = ["--resume"] if place == "device_bytes" else []
            assert call(*arguments, *resume) == 2
        found = f"709 x 701 pixels, whose prediction needs 0.{n} GB of {what} where"
        assert f"a.nii.gz: the volume has slices of {found}" in caplog.text
        assert names_in(out) == ["Müller scan.1.nii.gz", "b.nii", "c.nrrd"]


def test_min_mm3_drops_all_or_nothing(finished_run, inputs, tmp_path):
    for least, voxels in ((0, True), (10**9, False)):
        options = ("-i", inputs / "b.nii", "-o", tmp_path, "--min_mm3", least)
        assert call("--workdir", finished_run, *options) == 0
        assert read_volume(tmp_path / "b.nii").array.any() == voxels


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
    assert call(*options, "--dicom_seg") == 0
    seg = tmp_path / "seg" / "segmentations" / "DICOM_lge.dcm"
    found = pydicom.dcmread(seg)
    mask = read_volume(tmp_path / "seg" / "DICOM_lge.nii.gz").array
    planes = found.pixel_array[dicom_series.order_of_frames(found)]
    np.testing.assert_array_equal(planes[:, ::-1].T, mask)
    assert mask.any() and run_identity(finished_run)["sha256"].encode() in seg.read_bytes()
    caplog.clear()
    assert call(*options, "--dicom_seg", "--resume") == 0 and "already there: 1" in caplog.text
    before = seg.stat().st_mtime_ns
    assert call(*options, "--dicom_seg") == 0 and seg.stat().st_mtime_ns > before
    options = ("--workdir", finished_run, "-o", tmp_path / "x")
    assert call(*options, "-i", phantom, "--dicom_seg") == 2
    assert "is no DICOM series, expected one" in capsys.readouterr().err
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


def test_ensemble_and_mirroring_on_the_command_line(finished_run, inputs, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lagseg_jax")
    options = ("-i", inputs / "b.nii", "-o", tmp_path, "--tta")
    assert call("--workdir", finished_run, finished_run, *options) == 0
    assert "2 models, 4 mirrorings: 8 times" in caplog.text
    assert "--tta shows the model mirrored hearts" in caplog.text
    assert (tmp_path / "b.nii").exists()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--keep_components", "-1"], "--keep_components is -1"),
        (["--min_mm3", "-0.5"], "--min_mm3 is -0.5"),
        (["--min_mm3", "nan"], "--min_mm3 is nan"),
        (["--weights", "a", "b"], "2 folders of weights for 1 workdirs"),
    ],
)
def test_refused_numbers(finished_run, inputs, tmp_path, capsys, arguments, found):
    options = ("-i", inputs, "-o", tmp_path / "out", *arguments)
    assert call("--workdir", finished_run, *options) == 2
    assert found in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_volume_above_the_cap_is_named(finished_run, one_case, tmp_path, caplog):
    options = ("-i", one_case, "-o", tmp_path / "out", "--max_gb=0.00001")
    assert call("--workdir", finished_run, *options) == 2
    assert "at most 10000" in caplog.text and not list((tmp_path / "out").glob("*.nii*"))


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


def test_as_a_program_it_reports_every_case(finished_run, inputs, tmp_path):
    """Run with -m, the module has another name, and its log must reach the console all the same."""
    arguments = ["--workdir", finished_run, "-i", inputs, "-o", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "lagseg_jax.predict", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    for line in ("c.nrrd: ", " mL", "bad.nii.gz", "1 of 4 inputs could not be used"):
        assert line in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr  # of a library


def scan(phantom, path, affine=None, code=1, voxels=None):
    """A phantom's volume with another affine or voxels; code 0: the file does not say its axes."""
    image = nibabel.load(phantom / "task2" / "train_data" / "train_1" / "enhanced.nii.gz")
    affine = image.affine if affine is None else affine
    other = nibabel.Nifti1Image(np.asarray(image.dataobj) if voxels is None else voxels, affine)
    other.set_sform(affine, code)
    other.set_qform(None, 0)
    nibabel.save(other, path)
    return path


def test_an_unknown_orientation_is_refused_until_told_and_every_output_says_it(
    finished_run, phantom, tmp_path, caplog
):
    path = scan(phantom, tmp_path / "a.nii.gz", code=0)
    how = ["--workdir", finished_run, "-i", path, "-o", tmp_path / "out", "--statistics"]
    assert call(*how) == 2
    assert "orientation is not known" in caplog.text and "--orientation" in caplog.text
    assert not (tmp_path / "out" / "a.nii.gz").exists()
    assert call(*how, "--orientation=LPS") == 0
    assert "LPS as told" in caplog.text
    found = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert found["orientation"] == "LPS" and "LPS as told" in found["cases"][0]["remarks"]
    assert "LPS as told" in (tmp_path / "out" / "statistics.csv").read_text()
    mask = read_volume(tmp_path / "out" / "a.nii.gz", orientation="LPS")
    assert "LPS as told" in str(mask.header["descrip"])
    # The phantom is LPS: what is told gives what its own header gives.
    scan(phantom, tmp_path / "b.nii.gz")
    assert call("--workdir", finished_run, "-i", tmp_path / "b.nii.gz", "-o", tmp_path / "own") == 0
    np.testing.assert_array_equal(mask.array, read_volume(tmp_path / "own" / "b.nii.gz").array)


def test_a_plane_that_was_not_trained_on_is_refused_unless_told(
    finished_run, phantom, tmp_path, caplog
):
    assert json.loads((finished_run / "planes.json").read_text()) == {"planes": ["axial"]}
    path = scan(phantom, tmp_path / "a.nii.gz", np.diag([-1.4, -8.0, 1.4, 1.0]))
    how = ["--workdir", finished_run, "-i", path, "-o", tmp_path / "out"]
    assert call(*how) == 2
    assert f"{path}: coronal slices of 8 mm" in caplog.text and "--plane=axial" in caplog.text
    assert not (tmp_path / "out" / "a.nii.gz").exists()
    for plane in ("axial", "coronal"):
        assert call(*how, f"--plane={plane}", "--preview", "--statistics") == 0
        assert f"--plane cuts all volumes into {plane} slices" in caplog.text
        found = json.loads((tmp_path / "out" / "statistics.json").read_text())
        assert found["plane"] == plane


def test_a_near_isotropic_scan_is_cut_as_the_training_cases(finished_run, phantom, tmp_path):
    for name, height in (("a", 5.0), ("b", 2.4), ("c", 2.0)):
        scan(phantom, tmp_path / f"{name}.nii.gz", np.diag([-2.5, -2.5, height, 1.0]))
    assert call("--workdir", finished_run, "-i", tmp_path, "-o", tmp_path / "out") == 0
    a, b, c = (read_volume(tmp_path / "out" / f"{name}.nii.gz").array for name in "abc")
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)


def test_a_sheared_volume_is_named_and_measured_by_its_affine(
    finished_run, phantom, tmp_path, caplog
):
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.deg2rad(30))
    affine = np.diag([-2.5, -2.5, 5.0, 1.0])
    scan(phantom, tmp_path / "a.nii.gz", affine)
    scan(phantom, tmp_path / "b.nii.gz", shear @ affine)
    out = tmp_path / "out"
    assert call("--workdir", finished_run, "-i", tmp_path, "-o", out, "--statistics") == 0
    assert "b.nii.gz: sheared by 30.0 degrees" in caplog.text
    a, b = json.loads((out / "statistics.json").read_text())["cases"]
    assert a["volume_ml"] == pytest.approx(b["volume_ml"]) and a["voxels"] == b["voxels"] > 0
    assert "sheared" not in a["remarks"] and "sheared" in b["remarks"]


@pytest.fixture
def one_case(phantom, tmp_path):
    """A folder with one scan."""
    (tmp_path / "in").mkdir()
    return scan(phantom, tmp_path / "in" / "a.nii.gz")


def test_nothing_that_predict_did_not_make_is_replaced(finished_run, one_case, tmp_path, capsys):
    """Labels of a dataset, masks of others, and our own that somebody has corrected."""
    image = nibabel.load(one_case)
    label = nibabel.Nifti1Image((np.asarray(image.dataobj) > 100).astype(np.uint8), image.affine)
    for layout, name in (("nnunet", "a_0000.nii.gz"), ("msd", "a.nii.gz")):
        for folder, file, what in (("imagesTr", name, image), ("labelsTr", "a.nii.gz", label)):
            (tmp_path / layout / folder).mkdir(parents=True)
            nibabel.save(what, tmp_path / layout / folder / file)
        labels = tmp_path / layout / "labelsTr"
        before = (labels / "a.nii.gz").read_bytes()
        assert call("--workdir", finished_run, "-i", tmp_path / layout, "-o", labels) == 2
        assert "labels, expected another --output" in capsys.readouterr().err
        assert names_in(labels) == ["a.nii.gz"] and (labels / "a.nii.gz").read_bytes() == before
    how = ("--workdir", finished_run, "-i", tmp_path / "msd" / "imagesTr", "-o", labels)
    assert call(*how) == 2 and "was not made" in capsys.readouterr().err
    assert (labels / "a.nii.gz").read_bytes() == before
    how = ("--workdir", finished_run, "-i", one_case, "-o", tmp_path / "out")
    assert call(*how) == 0 and call(*how) == 0
    nibabel.save(label, tmp_path / "out" / "a.nii.gz")
    assert call(*how) == 2 and "has been changed" in capsys.readouterr().err
    assert call("--workdir", finished_run, "-i", one_case, "-o", one_case / "out") == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_resume_makes_anew_what_another_input_or_option_made(
    finished_run, one_case, phantom, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "lagseg_jax")
    how = ["--workdir", finished_run, "-i", one_case.parent, "-o", tmp_path / "out", "--resume"]

    def to_do(*options):
        caplog.clear()
        assert call(*how, *options) == 0
        return "to do: 0" not in caplog.text

    assert to_do() and not to_do()
    assert to_do("--keep_components=2") and to_do()
    other = phantom / "task2" / "train_data" / "train_2" / "enhanced.nii.gz"
    shutil.copy(other, one_case)
    assert to_do() and not to_do()
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["predict"]["threshold"] = 0.4
    (copy / "config.json").write_text(json.dumps(config))
    how[1] = copy
    assert to_do() and not to_do()


def test_masks_of_another_model_are_not_replaced_without_a_word(
    finished_run, one_case, tmp_path, caplog
):
    how = ["-i", one_case, "-o", tmp_path / "out"]
    for _ in range(2):
        assert call("--workdir", finished_run, *how) == 0
    assert "replaces" not in caplog.text
    assert call("--workdir", finished_run, finished_run, *how) == 0
    assert f"replaces 1 mask that {finished_run} made" in caplog.text


def test_a_case_that_fails_keeps_no_older_mask_and_tables_are_merged(
    finished_run, phantom, one_case, tmp_path
):
    out = tmp_path / "out"
    how = ["--workdir", finished_run, "-o", out, "--statistics"]
    assert call(*how, "-i", one_case) == 0
    second = scan(phantom, tmp_path / "b.nii.gz")
    assert call(*how, "-i", second) == 0
    assert list(rows_of(out)) == ["b", "a"]
    assert str(finished_run) in rows_of(out)["a"]["workdirs"]
    one_case.write_bytes(b"damaged")
    assert call(*how, "-i", one_case) == 2
    assert not (out / "a.nii.gz").exists() and list(rows_of(out)) == ["b"]
    assert len((out / "statistics.csv").read_text().splitlines()) == 2


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


def test_older_outputs_stay_only_while_they_are_true(finished_run, one_case, tmp_path):
    """A preview is kept beside the same mask, and goes with the mask that it showed."""
    out = tmp_path / "out"
    how = ("--workdir", finished_run, "-i", one_case, "-o", out)
    preview = out / "previews" / "a.png"
    assert call(*how, "--preview") == 0 and call(*how) == 0 and preview.exists()
    assert call(*how, "--preview") == 0 and preview.exists()
    assert call(*how, "--keep_components=0") == 0 and not preview.exists()
