"""Small NIfTI and NRRD files of a known geometry."""

import nibabel as nib
import nrrd
import numpy as np
import pytest

from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.runtime.errors import InputError

SHAPE = (5, 7, 11)
SPACING = (0.7, 1.3, 2.9)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def oblique_affine(permutation=(0, 1, 2), signs=(1, 1, 1)):
    """Voxel -> RAS mm, tilted by 11, -7 and 5 degrees, anisotropic, away from the origin."""
    a, b, c = np.deg2rad([11, -7, 5])
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    affine = np.eye(4)
    rotation = np.array(about_x) @ about_y @ about_z
    affine[:3, :3] = rotation[:, permutation] * signs * SPACING
    affine[:3, 3] = [-31.5, 17.25, 103.125]
    return affine


def noise(shape=SHAPE, dtype=np.int16, seed=0):
    return np.random.RandomState(seed).randint(0, 100, shape).astype(dtype)


def save_nifti(path, array, affine=None, kind=nib.Nifti1Image):
    image = kind(array, oblique_affine() if affine is None else affine)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def save_nrrd(path, array, affine=None, **header):
    lps = LPS @ (oblique_affine() if affine is None else affine)
    directions = np.full((array.ndim, 3), np.nan)
    directions[:3] = lps[:3, :3].T
    geometry = {
        "space": "left-posterior-superior",
        "space directions": directions,
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * array.ndim,
    }
    header = geometry | header
    nrrd.write(str(path), array, {key: value for key, value in header.items() if value is not None})
    return path


def save(path, array, affine=None):
    return (save_nrrd if path.suffix == ".nrrd" else save_nifti)(path, array, affine)


def refused(path, *expected, read=read_volume, **options):
    """The message, which must be one line that names the file and contains what is expected."""
    with pytest.raises(InputError) as error:
        read(path, **options)
    message = str(error.value)
    assert path.name in message and "\n" not in message and message.endswith(".")
    for text in expected:
        assert str(text) in message
    return message


def nifti_bytes(array=None, **fields):
    """An uncompressed NIfTI file with header fields overwritten, however absurd."""
    content = nib.Nifti1Image(noise() if array is None else array, oblique_affine()).to_bytes()
    header = np.frombuffer(content[:348], nib.Nifti1Header.template_dtype).copy()[0]
    for field, value in fields.items():
        header[field] = value
    return header.tobytes() + content[348:]
