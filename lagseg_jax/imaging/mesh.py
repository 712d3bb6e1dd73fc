"""Turns a mask or probability into a closed surface in mm, and writes it as binary STL.

Coordinates are LPS, as in DICOM: what 3D Slicer (since 4.11) takes an STL file to be in, and the
header says so in the words it looks for, `SPACE=LPS`. Normals point out of the atrium.
"""

import importlib.util
from pathlib import Path

import numpy as np

from lagseg_jax.imaging.masks import bounding_box
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.extras import install_command
from lagseg_jax.runtime.files import write_atomically

_STL = np.dtype([("normal", "<f4", 3), ("vertices", "<f4", (3, 3)), ("attribute", "<u2")])
_NEAR = 0.02  # in probability: no vertex comes closer than 4 % of a voxel to a voxel's centre


def check_mesh_support() -> None:
    """Raises InputError if scikit-image, an optional dependency, is not installed."""
    if importlib.util.find_spec("skimage") is None:
        raise InputError(
            "--mesh needs scikit-image, which is not installed, expected it after "
            f"{install_command('mesh')}"
        )


def atrium_surface(
    mask: np.ndarray, probability: np.ndarray, threshold: float, affine: np.ndarray
) -> np.ndarray:
    """The surface on which the probability crosses the threshold, around the mask and nothing else.

    Marching cubes (Lewiner et al. 2003). It separates exactly the voxel centres in the mask from
    the others, closes at the border of the volume, and is watertight: every edge belongs to two
    triangles that run along it in opposite directions.

    Args:
        mask: (x, y, z), non-zero inside; every voxel of it has a probability of `threshold` or
            more. Other voxels may have, too: components that were dropped.
        probability: (x, y, z); the mask itself gives its plain surface, midway between voxels.
        threshold: between 0 and 1.
        affine: (4, 4) voxel index -> scanner position in mm, RAS.

    Returns:
        Triangles (N, 3, 3) float32: corner, then coordinate in mm, LPS; none for an empty mask.
    """
    from skimage.measure import marching_cubes

    if not mask.any():
        return np.zeros((0, 3, 3), np.float32)
    box = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in bounding_box(mask))
    inside = mask[box] != 0
    # A little away from the threshold: in a voxel's centre, triangles would shrink to a point.
    height = np.abs(probability[box].astype(np.float32) - threshold).clip(_NEAR)
    height[~inside & (probability[box] >= threshold)] = threshold  # a dropped component: 0
    field = np.pad(np.where(inside, height, -height), 1, constant_values=-threshold)
    vertices, faces, _, _ = marching_cubes(field, 0.0)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    points = (vertices + [part.start - 1 for part in box]) @ to_lps[:3, :3].T + to_lps[:3, 3]
    triangles = points[faces].astype(np.float32)
    return triangles if enclosed_ml(triangles) > 0 else triangles[:, ::-1]


def enclosed_ml(triangles: np.ndarray) -> float:
    """Volume in mL inside closed surfaces (N, 3, 3) in mm; negative where normals point inwards.

    The sum of the signed tetrahedra `a . (b x c) / 6`, by the divergence theorem.
    """
    a, b, c = np.moveaxis(triangles.astype(np.float64), 1, 0)
    return float(np.einsum("ni,ni->", a, np.cross(b, c)) / 6000)


def write_stl(path: Path, triangles: np.ndarray) -> None:
    """Writes triangles (N, 3, 3), mm LPS, as binary STL: complete or not at all."""
    records = np.zeros(len(triangles), _STL)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    records["normal"] = normals / np.where(lengths, lengths, 1)
    records["vertices"] = triangles
    # Not `solid`: readers take a file that begins so for a text one.
    header = b"left atrium by lagseg_jax, mm, SPACE=LPS".ljust(80)
    content = header + len(records).to_bytes(4, "little") + records.tobytes()
    write_atomically(path, content)
