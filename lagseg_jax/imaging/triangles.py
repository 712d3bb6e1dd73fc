"""Says of triangles in space whether they are closed, what they enclose and what hangs together."""

import numpy as np


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


def body_of_each(triangles: np.ndarray) -> np.ndarray:
    """Numbers (N,) of the bodies that triangles (N, 3) belong to; a hollow is one of its own."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    count = triangles.max() + 1
    a, b = np.concatenate([triangles[:, :2], triangles[:, 1:]]).T
    linked = sparse.csr_matrix((np.ones(len(a)), (a, b)), (count, count))
    labels = connected_components(linked, directed=False)[1][triangles[:, 0]]
    return np.unique(labels, return_inverse=True)[1]


def without_folds(triangles: np.ndarray) -> np.ndarray:
    """Without pairs of triangles on the same points, back to back, which enclose nothing."""
    while True:
        _, sames, count = np.unique(
            np.sort(triangles, axis=1), axis=0, return_inverse=True, return_counts=True
        )
        single = count[sames.ravel()] == 1
        if single.all():
            return triangles
        triangles = triangles[single]


def samples(points: np.ndarray, triangles: np.ndarray, count: int) -> np.ndarray:
    """As many points (count, 3) on the triangles, everywhere as dense; always the same ones."""
    corners = points[triangles]
    sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(sides, axis=1)
    random = np.random.default_rng(0)
    chosen = random.choice(len(triangles), count, p=area / area.sum())
    u, v = random.random((2, count, 1))
    outside = u + v > 1
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    a, b, c = np.moveaxis(corners[chosen], 1, 0)
    return a + u * (b - a) + v * (c - a)
