"""The surface of voxels is closed, and has a body for each component and a hollow for each hole."""

import numpy as np
import pytest
from scipy import ndimage

from lagseg_jax.imaging.marching_cubes import neighbour_means, voxel_surface
from lagseg_jax.imaging.masks import label_components
from lagseg_jax.imaging.triangles import body_of_each, enclosed, is_closed

SHAPE = (7, 8, 9)


def random_mask(share):
    return np.random.default_rng(int(1000 * share)).random(SHAPE) < share


MASKS = {f"random {share}": random_mask(share) for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)}
MASKS |= {"checkerboard": np.indices(SHAPE).sum(0) % 2 == 0, "full": np.ones(SHAPE, bool)}
MASKS["two corners that touch"] = np.zeros(SHAPE, bool)
MASKS["two corners that touch"][[2, 3], [2, 3], [2, 3]] = True
for name, (a, b) in {
    "flat": (slice(2, 3), slice(1, 7)),
    "line": (slice(2, 3), slice(4, 5)),
}.items():
    MASKS[name] = np.zeros(SHAPE, bool)
    MASKS[name][a, b, 1:8] = True


def plain_surface(mask):
    return voxel_surface(mask, np.ones(mask.shape, np.float32))


@pytest.mark.parametrize("name", MASKS)
def test_bodies_are_components_and_hollows_are_holes(name):
    mask = MASKS[name]
    points, _, triangles = plain_surface(mask)
    assert is_closed(points, triangles)
    body = body_of_each(triangles)
    volumes = [enclosed(points, triangles[body == number]) for number in range(body.max() + 1)]
    _, sizes = label_components(mask)
    holes = ndimage.label(np.pad(~mask, 1, constant_values=True))[1] - 1  # 6 neighbours
    assert sum(volume > 0 for volume in volumes) == len(sizes)
    assert sum(volume < 0 for volume in volumes) == holes


def test_every_cell_of_a_large_random_mask_is_closed_around_every_point():
    """All 256 cells occur; the edges opposite each point form one ring, which is more."""
    mask = np.random.default_rng(5).random((31, 29, 23)) < 0.45
    points, _, triangles = plain_surface(mask)
    assert is_closed(points, triangles)
    rings = [{} for _ in points]
    for a, b, c in triangles.tolist():
        for at, start, end in ((a, b, c), (b, c, a), (c, a, b)):
            assert start not in rings[at]
            rings[at][start] = end
    for ring in rings:
        first = here = next(iter(ring))
        for _ in range(len(ring) - 1):
            here = ring[here]
            assert here != first


@pytest.mark.parametrize("name", ["random 0.3", "random 0.7", "checkerboard"])
def test_the_surface_separates_the_voxel_centres(name):
    """A ray along z from near each centre crosses the surface an odd number of times inside."""
    mask = MASKS[name]
    points, _, triangles = plain_surface(mask)
    inside = np.zeros(mask.shape, bool)
    beside = np.array([1.371e-3, 2.113e-3, 0])  # no ray meets an edge
    for number, centre in enumerate(np.argwhere(np.ones(mask.shape)) + beside):
        a, b, c = np.moveaxis(points[triangles] - centre, 1, 0)
        pairs = ((b, c), (c, a), (a, b))
        areas = np.stack([p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0] for p, q in pairs])
        hit = (areas > 0).all(0) | (areas < 0).all(0)
        heights = (areas * np.stack([a, b, c])[:, :, 2]).sum(0)[hit] / areas.sum(0)[hit]
        inside.flat[number] = np.count_nonzero(heights > 0) % 2
    np.testing.assert_array_equal(inside, mask)


def test_points_divide_the_way_between_centres_as_the_heights_do():
    mask, height = np.zeros((5, 3, 3), bool), np.ones((5, 3, 3))
    mask[1:3] = True
    height[0], height[1], height[2], height[3] = 3, 1, 1, 0.25
    points, plain, _ = voxel_surface(mask, height)
    middle = (points[:, 1:] == 1).all(1)
    np.testing.assert_allclose(np.sort(points[middle, 0]), [0.75, 2.8])
    np.testing.assert_allclose(np.sort(plain[middle, 0]), [0.5, 2.5])


def test_an_empty_mask_has_no_surface():
    points, plain, triangles = plain_surface(np.zeros(SHAPE, bool))
    assert points.shape == plain.shape == triangles.shape == (0, 3)


def test_means_of_neighbours_of_a_tetrahedron():
    triangles = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    values = np.array([0.0, 3.0, 6.0, 9.0])
    np.testing.assert_allclose(neighbour_means(triangles, 4) @ values, [6, 5, 4, 3])
