"""Traces the edge of a mask in one slice as closed polygons along the edges of its voxels."""

import numpy as np

# Corners of voxels, one step apart; voxel (i, j) begins at corner (i, j).
Loop = list[tuple[int, int]]


def outlines(plane: np.ndarray) -> list[np.ndarray]:
    """Polygons that hold the centres of the mask's voxels and no others.

    Voxels that touch at a corner only have polygons of their own. A hole is joined to the polygon
    around it by a channel of no width (the keyhole technique of DICOM PS3.3 C.8.8.6.3), so that
    every polygon can be filled alone, by the even-odd or the winding rule.

    Args:
        plane: (x, y) bool.

    Returns:
        Of each polygon its vertices (N, 2) float64 in voxels, centres at whole numbers, without
        the first one repeated.
    """
    loops = _loops(plane)
    rings = [loop for loop in loops if _area(loop) > 0]
    where = {corner: number for number, ring in enumerate(rings) for corner in ring}
    # From the left: what a channel meets there has been joined already.
    for hole in sorted((loop for loop in loops if _area(loop) < 0), key=min):
        at = hole.index(min(hole))
        start = hole[at]
        x, y = start[0] - 1, start[1]
        while (x, y) not in where:
            x -= 1
        number = where[x, y]
        ring = rings[number]
        after = ring.index((x, y)) + 1
        ring[after:after] = [*hole[at:], *hole[:at], start, (x, y)]
        where |= dict.fromkeys(hole, number)
    return [_corners(ring) - 0.5 for ring in rings]


def _loops(plane: np.ndarray) -> list[Loop]:
    """The edges between mask and rest as closed walks with the mask on the left."""
    padded = np.pad(plane.astype(bool), 1)
    inside = padded[1:-1, 1:-1]
    steps: dict[tuple[int, int], dict[tuple[int, int], None]] = {}
    for outside, start, step in (
        (padded[1:-1, :-2], (0, 0), (1, 0)),
        (padded[2:, 1:-1], (1, 0), (0, 1)),
        (padded[1:-1, 2:], (1, 1), (-1, 0)),
        (padded[:-2, 1:-1], (0, 1), (0, -1)),
    ):
        for corner in (np.argwhere(inside & ~outside) + start).tolist():
            steps.setdefault((corner[0], corner[1]), {})[step] = None
    loops = []
    while steps:
        corner = first = next(iter(steps))
        step = next(iter(steps[first]))
        loop: Loop = []
        while True:
            loop.append(corner)
            del steps[corner][step]
            if not steps[corner]:
                del steps[corner]
            corner = corner[0] + step[0], corner[1] + step[1]
            left = -step[1], step[0]  # where two voxels touch: around the one that we come from
            ways = steps.get(corner, {})
            if corner == first and left not in ways:
                break
            step = left if left in ways else next(iter(ways))
        loops.append(loop)
    return loops


def _area(loop: Loop) -> float:
    """Signed: negative around a hole."""
    x, y = np.array(loop).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def _corners(ring: Loop) -> np.ndarray:
    """Without the vertices on straight lines, (N, 2) float64."""
    vertices = np.array(ring, float)
    ahead = np.sign(np.roll(vertices, -1, axis=0) - vertices)
    return vertices[(ahead != np.roll(ahead, 1, axis=0)).any(axis=1)]
