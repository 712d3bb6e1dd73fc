"""A volume whose affine the tests know, as files that say it or do not, and what refuses them."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.runtime.errors import InputError

SHAPE = (97, 89, 23)
SPACING = (1.5, 1.25, 2.75)
LPS = np.diag([-1.5, -1.25, 2.75, 1.0])
RAS = np.diag([1.5, 1.25, 2.75, 1.0])
LPS[:3, 3], RAS[:3, 3] = (70, 60, -30), (-70, -60, -30)


def voxels(shape=SHAPE):
    return np.random.default_rng(0).integers(0, 100, shape).astype(np.int16)


def save(path, qform=(LPS, 1), sform=(LPS, 1), **fields):
    """A NIfTI file whose forms, codes and other fields are what the test says."""
    image = nib.Nifti1Image(voxels(), None)
    image.header.set_zooms(SPACING)
    image.header.set_xyzt_units("mm")
    image.set_sform(*sform)
    image.set_qform(*qform)
    content = image.to_bytes()
    header = np.frombuffer(content[:348], nib.Nifti1Header.template_dtype).copy()[0]
    for field, value in fields.items():
        header[field] = value
    content = header.tobytes() + content[348:]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def refused(path, *expected, **options):
    with pytest.raises(InputError) as error:
        read_volume(path, Reading(**options))
    message = str(error.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")
    for text in expected:
        assert text in message, message
    return error.value
