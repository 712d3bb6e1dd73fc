"""What the tests of inference share: a run's segmenter and a volume."""

import pytest

import lagseg_jax
from lagseg_jax.imaging.volume import read_volume


@pytest.fixture(scope="module")
def segmenter(finished_run):
    return lagseg_jax.load_segmenter(finished_run)


@pytest.fixture(scope="module")
def volume(phantom):
    return read_volume(phantom / "task2" / "train_data" / "train_1" / "enhanced.nii.gz")
