"""What the tests of the commands share."""

import logging
import shutil

import nibabel
import nrrd
import numpy as np
import pytest

from lagseg_jax import predict
from lagseg_jax.imaging.volume import read_volume
from predict_calls import scan
from study_arms import ROOT


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


@pytest.fixture
def console_for_caplog(monkeypatch):
    """The command line's own handler does not propagate; let the tests read what it says."""
    monkeypatch.setattr(predict, "log_to_console", lambda: None)
    monkeypatch.setattr(logging.getLogger("lagseg_jax"), "propagate", True)


@pytest.fixture
def one_case(phantom, tmp_path):
    """A folder with one scan."""
    (tmp_path / "in").mkdir()
    return scan(phantom, tmp_path / "in" / "a.nii.gz")


@pytest.fixture
def dataset(phantom, tmp_path):
    """Root and case folders of a copy of the phantoms."""
    shutil.copytree(phantom, tmp_path / "data")
    return tmp_path / "data", tmp_path / "data" / "task2" / "train_data"


@pytest.fixture
def at_root(monkeypatch):
    """Studies and their pages name files from the root of the repository."""
    monkeypatch.chdir(ROOT)
