"""python -m lagseg_jax.predict: any file, masks in its geometry, no partial or lost output."""

import logging
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from lagseg_jax.imaging.volume import read_volume
from predict_calls import call, names_in

pytestmark = pytest.mark.usefixtures("console_for_caplog")


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
