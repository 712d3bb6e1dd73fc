"""Finds a closed surface around the voxels of a mask, one body for each of its components.

Marching cubes (Lorensen and Cline 1987) with a table of its own. The usual ones separate voxels
that touch in an edge or a corner, or let the values decide; here they are always joined, as
`masks.label_components` joins them (26 neighbours), and the background never is (6 neighbours).
"""

import functools
import itertools

import numpy as np
from scipy import sparse

# Corner c of a cell of 2 x 2 x 2 voxels lies at these indices; an edge is a pair of corners.
_CORNERS = np.array([(c & 1, c >> 1 & 1, c >> 2 & 1) for c in range(8)])
_EDGES = [(c, c | 1 << axis) for axis in range(3) for c in range(8) if not c >> axis & 1]
_MIDDLE = len(_EDGES)  # a loop of more than four edges is closed around a point in its middle


def voxel_surface(
    mask: np.ndarray, height: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surface between the voxel centres inside and those outside.

    Every edge belongs to two triangles, which run along it in opposite directions, and around
    every point the triangles form one fan. Normals point out of the mask.

    Args:
        mask: (x, y, z) bool; beyond its border all is outside.
        height: (x, y, z), above 0: how far each voxel centre is from the surface, in any unit.
            Between two centres the surface divides their distance in this proportion.

    Returns:
        Points (V, 3) float64 in voxel indices; the same for equal heights (V, 3), which lie on the
        faces of the voxels; triangles (N, 3) int64, numbers of points.
    """
    inside, height = np.pad(mask, 1), np.pad(height, 1, mode="edge")
    triangles = _numbered(inside)
    names, triangles = np.unique(triangles, return_inverse=True)
    triangles = triangles.reshape(-1, 3)
    kinds, cells = np.divmod(names, inside.size)
    low = np.stack(np.unravel_index(cells, inside.shape), axis=1)
    edges = kinds < 3
    low, steps = low[edges], np.eye(3, dtype=np.int64)[kinds[edges]]
    below, above = (height[tuple(end.T)].astype(np.float64) for end in (low, low + steps))
    points, plain = np.zeros((2, len(names), 3))
    points[edges] = low + steps * (below / (below + above))[:, None]
    plain[edges] = low + steps / 2
    if not edges.all():
        around = neighbour_means(triangles, len(names))[~edges]
        points[~edges], plain[~edges] = around @ points, around @ plain
    return points - 1, plain - 1, triangles


def neighbour_means(triangles: np.ndarray, count: int) -> sparse.csr_matrix:
    """The matrix (V, V) that takes values of `count` points to the means of their neighbours."""
    pairs = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    near = sparse.csr_matrix((np.ones(len(pairs)), tuple(pairs.T)), (count, count))
    return sparse.diags(1 / np.asarray(near.sum(axis=1)).ravel()) @ near


def _numbered(inside: np.ndarray) -> np.ndarray:
    """Triangles (N, 3) of a padded mask (x, y, z): of each point its kind and its cell in one.

    The kind, times the size of the mask, is the axis of the edge, or 3 for a middle; the cell is
    that of the edge's lower corner.
    """
    codes = np.zeros(np.array(inside.shape) - 1, np.uint8)
    for bit, corner in enumerate(_CORNERS):
        part = tuple(slice(c, c + n) for c, n in zip(corner, codes.shape))
        codes |= inside[part].view(np.uint8) << np.uint8(bit)
    strides = np.array([inside.shape[1] * inside.shape[2], inside.shape[2], 1])
    kinds = np.repeat([0, 1, 2], 4)
    offsets = kinds * inside.size + _CORNERS[[low for low, _ in _EDGES]] @ strides
    offsets = np.append(offsets, 3 * inside.size)
    found = [np.zeros((0, 3), np.int64)]
    at = np.argwhere((codes > 0) & (codes < 255))
    cells, codes = at @ strides, codes[tuple(at.T)]
    for code in np.unique(codes):
        here = cells[codes == code, None, None]
        found.append((here + offsets[_cell(int(code))]).reshape(-1, 3))
    return np.concatenate(found)


@functools.cache
def _cell(code: int) -> np.ndarray:
    """Triangles (T, 3) in a cell whose corners c with bit c of the code are inside.

    Numbers are those of edges, and 12 of the middle, which one loop needs at most. Two opposite
    corners alone have two loops that are one body: a tunnel joins what touches in a corner.
    """
    loops = _loops(code)
    if code in (0b10000001, 0b01000010, 0b00100100, 0b00011000):
        return _tunnel(*loops)
    triangles: list[tuple[int, int, int]] = []
    for loop in loops:
        if len(loop) <= 4:
            triangles += [(loop[0], b, c) for b, c in itertools.pairwise(loop[1:])]
        else:
            triangles += [(a, b, _MIDDLE) for a, b in zip(loop, [*loop[1:], loop[0]])]
    return np.array(triangles)


def _loops(code: int) -> list[list[int]]:
    """The closed lines along which the surface meets the faces of a cell, as lists of edges.

    On each face they cut off every run of corners outside, so that those inside stay joined.
    Seen from outside of the cell, corners inside are on one side of the line throughout.
    """
    following = {}
    for axis in range(3):
        u, v = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        for side, ring in ((0, (0, v, u | v, u)), (1 << axis, (0, u, u | v, v))):
            corners = [side | corner for corner in ring]
            pairs = zip(corners, corners[1:] + corners)
            edges = [_EDGES.index((min(pair), max(pair))) for pair in pairs]
            held = [code >> corner & 1 for corner in corners]
            for i in range(4):
                if held[i] and not held[(i + 1) % 4]:
                    end = next(j for j in range(i + 1, i + 4) if held[(j + 1) % 4])
                    following[edges[end % 4]] = edges[i]
    loops = []
    while following:
        loop = [min(following)]
        while (after := following.pop(loop[-1])) != loop[0]:
            loop.append(after)
        loops.append(loop)
    return loops


def _tunnel(near: list[int], far: list[int]) -> np.ndarray:
    """The ring of six triangles between two loops of three edges each, one along each axis."""
    along = {edge // 4: edge for edge in far}
    pairs = list(zip(near, [*near[1:], near[0]]))
    tips = [along[3 - a // 4 - b // 4] for a, b in pairs]
    bases = [(after, tip, b) for tip, after, (_, b) in zip(tips, [*tips[1:], tips[0]], pairs)]
    return np.array([(a, b, tip) for tip, (a, b) in zip(tips, pairs)] + bases)
