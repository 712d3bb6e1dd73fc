"""Turns a mask into a closed, smooth surface in mm that lies where the mask lies.

Points of `marching_cubes` are smoothed by Taubin's filter (1995), which unlike an average does not
shrink, and none moves farther than half a voxel; the triangles are then thinned by quadric error
(Garland and Heckbert 1997), and all points moved along their normals by one small distance, until
the volume is that of the voxels. What comes out is checked; where it fails, less is done.
"""

import errno
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lagseg_jax.imaging.marching_cubes import neighbour_means, voxel_surface
from lagseg_jax.imaging.masks import bounding_box
from lagseg_jax.imaging.mesh_distance import voxel_distances
from lagseg_jax.imaging.triangles import body_of_each, enclosed, is_closed, samples, without_folds
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.extras import install_command

SPACES = ("LPS", "RAS")
TRIANGLES = 20000
MAX_VOLUME_ERROR = 0.01
MAX_FACES = 1_500_000  # of voxels; an atrium has some 50 000, noise would take all memory
MAX_DISTANCE = 0.5  # 95 % of the surface, in voxels
_LARGE = 200  # triangles; bodies of fewer are not thinned
_PASSES = 100
_STEPS = (0.6307, -0.6352)  # Taubin's pair: of a wave along the surface it keeps what is longer
_REACH = 0.5  # voxels that smoothing moves a point at most
_SAMPLES = 20000  # points of a surface whose distances are looked at
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NEAR = 0.02  # in probability: no vertex comes closer than 4 % of a voxel to a voxel's centre


@dataclass(frozen=True)
class Surface:
    """Closed surfaces of triangles, normals outwards.

    Attributes:
        points: (V, 3) float32, mm.
        triangles: (N, 3) int64, numbers of points.
        space: the sides to which x, y and z grow, "LPS" or "RAS".
        whole: closed, and as many bodies as before smoothing and thinning.
        volume_error: of the volume inside, as a part of the mask's.
        distance: to the surface of the voxels, within which 95 % of it are, in voxels.
        remark: what was left out, and why; or "".
    """

    points: np.ndarray
    triangles: np.ndarray
    space: str = "LPS"
    whole: bool = True
    volume_error: float = 0.0
    distance: float = 0.0
    remark: str = ""

    def __str__(self) -> str:
        said = f"{len(self.triangles)} triangles in mm, {self.space}"
        if len(self.triangles):
            said += (
                f", volume {100 * self.volume_error:+.2f} %, 95 % of it within "
                f"{self.distance:.2f} voxels of the mask's surface"
            )
        return f"{said}; {self.remark}" if self.remark else said

    def amiss(self) -> str:
        """What it does not keep of what is promised, or ""."""
        if not self.whole:
            return "it is not closed"
        if not abs(self.volume_error) <= MAX_VOLUME_ERROR:
            return f"its volume is {100 * self.volume_error:+.1f} % off"
        if not self.distance <= MAX_DISTANCE:
            return f"5 % of it are {self.distance:.2f} voxels or more from the mask's surface"
        return ""


@dataclass(frozen=True)
class MeshOptions:
    """What a surface file shall be.

    Attributes:
        file_format: of `mesh_files.FORMATS`.
        space: of `SPACES`.
        triangles: about how many at most; 0: all.
    """

    file_format: str = "stl"
    space: str = "LPS"
    triangles: int = TRIANGLES

    def place(self, case: str) -> Path:
        """The file of a case; LPS, what most programs expect, goes without saying."""
        folder = "meshes_RAS" if self.space == "RAS" else "meshes"
        return Path(folder, f"{case}.{self.file_format}")


def check_mesh_support() -> None:
    """Raises InputError if fast-simplification, an optional dependency, is not installed."""
    if importlib.util.find_spec("fast_simplification") is None:
        raise InputError(
            "--mesh needs fast-simplification, which is not installed, expected it after "
            f"{install_command('mesh')}"
        )


def atrium_surface(
    mask: np.ndarray,
    probability: np.ndarray | None,
    threshold: float,
    affine: np.ndarray,
    triangles: int = TRIANGLES,
    space: str = "LPS",
) -> Surface:
    """The smooth surface of a mask: one body for each of its components (26 neighbours).

    Args:
        mask: (x, y, z), non-zero inside; every voxel of it has a probability of `threshold` or
            more. Other voxels may have, too: components that were dropped.
        probability: (x, y, z), where it crosses the threshold the surface is looked for; None:
            midway between the voxels of the mask and the others.
        threshold: between 0 and 1.
        affine: (4, 4) voxel index -> scanner position in mm, RAS.
        triangles: about how many there shall be at most; 0: all.
        space: "LPS", as in DICOM, or "RAS", as in NIfTI.

    Returns:
        The surface; without triangles for an empty mask.

    Raises:
        OSError: the surface would be far too large for one of an atrium.
    """
    if not mask.any():
        return Surface(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64), space)
    box = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in bounding_box(mask))
    inside = mask[box] != 0
    _check_size(inside)
    height = np.ones(inside.shape, np.float32)
    if probability is not None:
        height = _height(inside, probability[box], threshold)
    exact, plain, faces = voxel_surface(inside, height)
    to_mm = (_RAS_TO_LPS if space == "LPS" else np.eye(4)) @ affine
    to_mm[:3, 3] += to_mm[:3, :3] @ [part.start for part in box]
    smooth = _smoothed(exact, plain, faces)
    remark = ""
    for points, count, less in (
        (smooth, triangles, "thinned less, as else"),
        (smooth, 2 * triangles, "not thinned, as else"),
        (smooth, 0, "neither smoothed nor thinned, as else"),
        (plain, 0, "but"),
    ):
        found = _finished(points, faces, inside, to_mm, count, space)
        if not (amiss := found.amiss()):
            break
        remark = f"{less} {amiss}"
    return replace(found, remark=remark)


def _check_size(inside: np.ndarray) -> None:
    padded = np.pad(inside, 1)
    faces = sum(int(np.count_nonzero(np.diff(padded, axis=axis))) for axis in range(3))
    if faces > MAX_FACES:
        raise OSError(
            errno.ERANGE,  # and not EFBIG, which is a full disk
            f"the surface of its mask has {faces} voxel faces, expected {MAX_FACES} at most, as it "
            "looks like noise",
        )


def _height(inside: np.ndarray, probability: np.ndarray, threshold: float) -> np.ndarray:
    """How far the probability is from the threshold: for `voxel_surface`."""
    # A little away from it: in a voxel's centre, triangles would shrink to a point.
    height = np.abs(probability.astype(np.float32) - threshold).clip(_NEAR)
    height[~inside & (probability >= threshold)] = threshold  # a dropped component: as of 0
    return height


def _smoothed(points: np.ndarray, plain: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Taubin's filter on points (V, 3) that stay within a reach of where they were, `plain`."""
    means = neighbour_means(triangles, len(points))
    for _ in range(_PASSES):
        for step in _STEPS:
            points = points + step * (means @ points - points)
        moved = points - plain
        far = np.linalg.norm(moved, axis=1, keepdims=True)
        points = plain + moved * np.minimum(1, _REACH / np.maximum(far, _REACH))
    return points


def _finished(
    points: np.ndarray,
    triangles: np.ndarray,
    inside: np.ndarray,
    to_mm: np.ndarray,
    count: int,
    space: str,
) -> Surface:
    """The surface thinned, of the mask's volume, in mm, and measured."""
    turn, origin = to_mm[:3, :3], to_mm[:3, 3]
    bodies = body_of_each(triangles).max()
    if 0 < count < len(triangles):
        points, triangles = _thinned(points @ turn.T, triangles, count)
        points = points @ np.linalg.inv(turn).T
    voxels = int(np.count_nonzero(inside))
    points = _of_volume(points, triangles, voxels)
    placed = (points @ turn.T + origin).astype(np.float32)
    points = (placed - origin) @ np.linalg.inv(turn).T
    error = enclosed(points, triangles) / voxels - 1
    distances = voxel_distances(samples(points, triangles, _SAMPLES), inside)
    whole = is_closed(placed, triangles) and body_of_each(triangles).max() == bodies
    if np.linalg.det(turn) < 0:
        triangles = triangles[:, ::-1]
    return Surface(placed, triangles, space, whole, error, float(np.percentile(distances, 95)))


def _thinned(
    points: np.ndarray, triangles: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """About `count` triangles, and their points (V, 3); of small bodies all: they would vanish."""
    from fast_simplification import simplify

    body = body_of_each(triangles)
    large = np.bincount(body)[body] >= _LARGE
    if not large.any():
        return points, triangles
    wanted = max(count - np.count_nonzero(~large), _LARGE)
    thin, faces = simplify(points, triangles[large].astype(np.int32), target_count=wanted)
    rest = triangles[~large] + len(thin)
    used, numbers = np.unique(np.concatenate([without_folds(faces), rest]), return_inverse=True)
    return np.concatenate([thin, points])[used], numbers.reshape(-1, 3)


def _of_volume(points: np.ndarray, triangles: np.ndarray, voxels: int) -> np.ndarray:
    """Points (V, 3), in voxels, moved along their normals by one distance: the volume fits."""
    normals = np.zeros_like(points)
    corners = points[triangles]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    for corner in triangles.T:
        np.add.at(normals, corner, across)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals /= np.where(length, length, 1)
    # Of a distance, the volume is a polynomial of degree 3: four of its values say it all.
    steps = np.array([-0.5, 0.0, 0.5, 1.0]) * _REACH
    volumes = [enclosed(points + step * normals, triangles) - voxels for step in steps]
    roots = np.polynomial.Polynomial.fit(steps, volumes, 3).roots()
    real = roots[np.abs(roots.imag) < 1e-9].real
    return points + normals * real[np.abs(real).argmin()] if len(real) else points
