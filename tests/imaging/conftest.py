"""A DICOM series of noise, and a mask of it."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def pixels():
    """Of `dicom_series.SHAPE`: (slice, row, column)."""
    return np.random.default_rng(0).integers(0, 4096, (13, 19, 17)).astype(np.uint16)


@pytest.fixture(scope="module")
def mask():
    """Holes, holes in holes, corners that touch: (x, y, z), with empty slices at both ends."""
    mask = np.random.default_rng(1).random((17, 19, 13)) > 0.4
    mask[..., :2] = mask[..., -1] = False
    return mask.astype(np.uint8)
