"""Turns a mask into a closed, smooth surface in mm that lies where the mask lies.

Points of `marching_cubes` are smoothed by Taubin's filter (1995), which unlike an average does not
shrink, and none moves farther than half a voxel; the triangles are then thinned by quadric error
(Garland and Heckbert 1997), and all points moved along their normals by one small distance, until
the volume is that of the voxels. What comes out is checked; where it fails, less is done.
"""

import importlib.util
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from lagseg_jax.imaging.marching_cubes import neighbour_means, voxel_surface
from lagseg_jax.imaging.masks import bounding_box
from lagseg_jax.imaging.mesh_distance import voxel_distances
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.extras import install_command

SPACES = ("LPS", "RAS")
TRIANGLES = 20000
MAX_VOLUME_ERROR = 0.01
MAX_DISTANCE = 0.5  # 95 % of the surface, in voxels
_PASSES = 100
_STEPS = (0.6307, -0.6352)  # Taubin's pair: of a wave along the surface it keeps what is longer
_REACH = 0.5  # voxels that smoothing moves a point at most
_SAMPLES = 20000  # points of a surface whose distances are looked at
_NEAR = 0.02  # in probability: no vertex comes closer than 4 % of a voxel to a voxel's centre


@dataclass(frozen=True)
class Surface:
    """Closed surfaces of triangles, normals outwards.

    Attributes:
        points: (V, 3) float32, mm.
        triangles: (N, 3) int64, numbers of points.
        space: the sides to which x, y and z grow, "LPS" or "RAS".
        volume_error: of the volume inside, as a part of the mask's.
        distance: to the surface of the voxels, which 95 % of it keep, in voxels.
        remark: what was left out for these two and why, or "".
    """

    points: np.ndarray
    triangles: np.ndarray
    space: str = "LPS"
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
    """
    to_mm = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine if space == "LPS" else affine
    if not mask.any():
        return Surface(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64), space)
    box = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in bounding_box(mask))
    inside = mask[box] != 0
    height = np.ones(inside.shape, np.float32)
    if probability is not None:
        # A little away from the threshold: in a voxel's centre, triangles would shrink to a point.
        height = np.abs(probability[box].astype(np.float32) - threshold).clip(_NEAR)
        height[~inside & (probability[box] >= threshold)] = threshold  # a dropped component: 0
    exact, plain, faces = voxel_surface(inside, height)
    to_mm = to_mm.copy()
    to_mm[:3, 3] += to_mm[:3, :3] @ [part.start for part in box]
    smooth = _smoothed(exact, plain, faces)
    for points, count, without in (
        (smooth, triangles, ""),
        (smooth, 3 * triangles, "thinned less"),
        (smooth, 0, "not thinned"),
        (plain, 0, "neither smoothed nor thinned"),
    ):
        found, amiss = _finished(points, faces, inside, to_mm, count, space)
        if not amiss:
            break
        why = amiss
    return replace(found, remark=f"{without}, since {why}" if without else "")


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
) -> tuple[Surface, str]:
    """The surface thinned and of the mask's volume, and what is amiss with it, or ""."""
    turn, origin = to_mm[:3, :3], to_mm[:3, 3]
    bodies = _bodies(triangles, len(points))
    if 0 < count < len(triangles):
        points, triangles = _thinned(points @ turn.T, triangles, count)
        points = points @ np.linalg.inv(turn).T
    points = _of_volume(points, triangles, np.count_nonzero(inside))
    placed = (points @ turn.T + origin).astype(np.float32)
    points = (placed - origin) @ np.linalg.inv(turn).T
    error = enclosed(points, triangles) / np.count_nonzero(inside) - 1
    distance = float(np.percentile(voxel_distances(samples(points, triangles), inside), 95))
    if np.linalg.det(turn) < 0:
        triangles = triangles[:, ::-1]
    surface = Surface(placed, triangles, space, error, distance)
    amiss = ""
    if not is_closed(placed, triangles) or _bodies(triangles, len(points)) != bodies:
        amiss = "it would not stay closed"
    elif not abs(error) <= MAX_VOLUME_ERROR:
        amiss = f"the volume would be {100 * error:+.1f} % off"
    elif not distance <= MAX_DISTANCE:
        amiss = f"5 % of it would be {distance:.2f} voxels and more from the mask's surface"
    return surface, amiss


def _thinned(
    points: np.ndarray, triangles: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """About `count` triangles, and their points (V, 3)."""
    from fast_simplification import simplify

    points, triangles = simplify(points, triangles.astype(np.int32), target_count=count)
    return points.astype(np.float64), triangles.astype(np.int64)


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


def _bodies(triangles: np.ndarray, count: int) -> int:
    """How many surfaces of their own there are; a hollow counts as one."""
    a, b = triangles[:, :2].T
    linked = sparse.csr_matrix((np.ones(len(a)), (a, b)), (count, count))
    return len(np.unique(connected_components(linked, directed=False)[1][triangles[:, 0]]))


def is_closed(points: np.ndarray, triangles: np.ndarray) -> bool:
    """Whether every edge belongs to two triangles that run along it in opposite directions.

    Points (V, 3) are told apart by where they are, as a reader of an STL file does.
    """
    _, numbers = np.unique(points, axis=0, return_inverse=True)
    corners = numbers.ravel()[triangles]
    a, b = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]).T
    there, back = np.sort(a * len(points) + b), np.sort(b * len(points) + a)
    return bool((a != b).all() and (there == back).all() and (np.diff(there) > 0).all())


def enclosed(points: np.ndarray, triangles: np.ndarray) -> float:
    """Volume inside closed surfaces, in the points' unit cubed; negative if normals point inwards.

    The sum of the signed tetrahedra `a . (b x c) / 6`, by the divergence theorem.
    """
    a, b, c = np.moveaxis(points[triangles].astype(np.float64), 1, 0)
    return float(np.einsum("ni,ni->", a, np.cross(b, c)) / 6)


def samples(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Points of all triangles, as many on each as its area asks for."""
    corners = points[triangles]
    sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(sides, axis=1)
    random = np.random.default_rng(0)
    total = area.sum()
    chosen = random.choice(len(triangles), _SAMPLES, p=area / total)
    u, v = random.random((2, _SAMPLES, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = np.moveaxis(corners[chosen], 1, 0)
    return a + u * (b - a) + v * (c - a)
