"""python -m lagseg_jax.predict: any file, masks in its geometry, no partial or lost output."""

import logging
import shutil
import subprocess
import sys

import nibabel
import nrrd
import numpy as np
import pytest

from lagseg_jax import predict
from lagseg_jax.errors import InputError
from lagseg_jax.logs import exit_status
from lagseg_jax.volume import read_volume


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
    assert sorted(p.name for p in output.iterdir()) == ["Müller scan.1.nii.gz", "b.nii", "c.nrrd"]
    for path in output.iterdir():
        source, mask = read_volume(inputs / path.name), read_volume(path)
        assert mask.stored_shape == source.stored_shape
        np.testing.assert_allclose(mask.affine, source.affine, atol=1e-6)
        assert mask.array.dtype == np.uint8 and set(np.unique(mask.array)) <= {0, 1}
    assert "bad.nii.gz" in caplog.text and "1 of 4 inputs" in caplog.text
    # The NIfTI with a trailing axis and the NRRD hold the same patient.
    a, b = (read_volume(output / name).array for name in ("b.nii", "c.nrrd"))
    np.testing.assert_array_equal(a, b)


def test_resume_skips_finished_ones(finished_run, inputs, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lagseg_jax")
    (inputs / "bad.nii.gz").unlink()
    output = tmp_path / "out"
    output.mkdir()
    marker = b"finished before"
    (output / "b.nii").write_bytes(marker)
    assert call("--workdir", finished_run, "-i", inputs, "-o", output, "--resume") == 0
    assert (output / "b.nii").read_bytes() == marker
    assert len(list(output.iterdir())) == 3 and "1 masks are there already" in caplog.text
    # Nothing left to do needs no model at all.
    assert call("--workdir", tmp_path, "-i", inputs, "-o", output, "--resume") == 0
    assert call("--workdir", finished_run, "-i", inputs / "b.nii", "-o", output) == 0
    assert (output / "b.nii").read_bytes() != marker


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


def test_find_inputs_takes_one_file_of_any_name(tmp_path):
    path = tmp_path / "x.nii"
    path.touch()
    assert predict.find_inputs(path) == [path]
    with pytest.raises(InputError):
        predict.find_inputs(tmp_path / "y.nii")


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
    assert "Traceback" not in done.stderr
