"""Outlines of masks: polygons that hold the centres of the mask's voxels and no others."""

import numpy as np
import pytest

from lagseg_jax.imaging.outlines import outlines


def filled(polygons, shape, rule):
    """The voxels whose centres lie in a polygon: crossings of a ray to the right, independently."""
    mask = np.zeros(shape, int)
    centres = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 2)
    for polygon in polygons:
        (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
        for x, y in centres:
            crosses = ((y0 > y) != (y1 > y)) & (np.maximum(x0, x1) > x)
            count = crosses.sum() % 2 if rule == "even-odd" else (np.sign(y1 - y0) * crosses).sum()
            mask[x, y] += count != 0
    return mask


def test_a_single_voxel_is_a_square():
    (square,) = outlines(np.pad(np.ones((1, 1), bool), ((2, 1), (3, 0))))
    assert sorted(map(tuple, square)) == [(1.5, 2.5), (1.5, 3.5), (2.5, 2.5), (2.5, 3.5)]


def test_a_straight_edge_has_two_vertices_however_long():
    (rectangle,) = outlines(np.ones((7, 11), bool))
    assert len(rectangle) == 4 and np.ptp(rectangle, axis=0).tolist() == [7, 11]


def test_a_hole_is_joined_to_the_polygon_around_it():
    ring = np.ones((5, 7), bool)
    ring[2, 3] = ring[2, 5] = False
    (polygon,) = outlines(ring)
    x, y = polygon.T
    area = abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
    assert area == ring.sum()  # channels have no width


def test_voxels_that_touch_at_a_corner_have_polygons_of_their_own():
    assert [len(polygon) for polygon in outlines(np.eye(3, dtype=bool))] == [4, 4, 4]


def test_nothing_has_no_polygon():
    assert outlines(np.zeros((3, 5), bool)) == []


@pytest.mark.parametrize("rule", ["even-odd", "winding"])
@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.9])
def test_polygons_hold_the_voxels_and_no_others(share, rule):
    """Noise has holes in holes, corners that touch, and both at the border."""
    for seed in range(3):
        mask = np.random.default_rng(seed).random((17, 23)) < share
        # Each voxel is in one polygon: they lie over each other nowhere.
        np.testing.assert_array_equal(filled(outlines(mask), mask.shape, rule), mask)
