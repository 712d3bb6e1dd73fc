"""Slices show the patient the right way round, and come back to the voxels they were cut from."""

import itertools

import jax.image
import numpy as np
import pytest

from lagseg_jax.imaging.slices import (
    check_plane,
    check_trained_plane,
    from_slices,
    network_images,
    network_masks,
    resize_matrices,
    restore_matrices,
    to_slices,
)
from lagseg_jax.runtime.errors import InputError

SHAPE = (5, 7, 11)
ORIENTATIONS = list(
    itertools.product(itertools.permutations(range(3)), itertools.product([1, -1], repeat=3))
)


def affine_of(permutation=(0, 1, 2), signs=(1, 1, 1), spacing=(1.3, 0.7, 2.9), tilt=0.0):
    """Voxel -> RAS mm: array axis k lies along world axis `permutation[k]`, then all is tilted.

    The spacing is that of the world axes right, anterior, superior; the tilt is in radians.
    """
    cos, sin = np.cos(tilt), np.sin(tilt)
    about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    about_z = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag(spacing)[:, permutation] * signs
    affine[:3, 3] = [-31.5, 17.25, 103.125]
    return affine


def dice(a, b):
    return 2 * np.sum((a > 0) & (b > 0)) / (np.sum(a > 0) + np.sum(b > 0))


def disc(height, width, radius):
    rows, columns = np.indices((height, width))
    return (np.hypot(rows - 0.45 * height, columns - 0.55 * width) < radius).astype(np.uint8)


# Geometry


@pytest.mark.parametrize("tilt", [0.0, 0.2, 0.7])
def test_round_trip_over_all_48_orientations(tilt):
    assert len(ORIENTATIONS) == 48
    array = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)
    for permutation, signs in ORIENTATIONS:
        affine = affine_of(permutation, signs, tilt=tilt)
        slices, geometry = to_slices(array, affine)
        restored = from_slices(slices, geometry)
        assert restored.dtype == array.dtype
        np.testing.assert_array_equal(restored, array)
        # 2.9 mm: across the slices.
        assert geometry.volume_axis == permutation.index(2)
        assert len(slices) == SHAPE[geometry.volume_axis]
        np.testing.assert_allclose(geometry.spacing, (2.9, 0.7, 1.3))


def test_the_view_is_radiological_in_all_48_orientations():
    """The patient's right is on the left of the picture, his front on top, his head comes last."""
    for permutation, signs in ORIENTATIONS:
        affine = affine_of(permutation, signs, tilt=0.1)
        index = np.stack([*np.indices(SHAPE), np.ones(SHAPE)])
        right, anterior, superior, _ = np.tensordot(affine, index, 1)
        volume = np.zeros(SHAPE, np.uint8)
        # Of all voxels, the one in the corner towards his right, his front and his head.
        volume[np.unravel_index(np.argmax(right + anterior + superior), SHAPE)] = 1
        slices, _ = to_slices(volume, affine)
        assert np.argwhere(slices).tolist() == [[len(slices) - 1, 0, 0]]


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [
        ((1.0, 1.0, 3.0), 2),
        ((3.0, 1.0, 1.0), 0),
        ((1.0, 3.0, 1.0), 1),
        ((1.0, 1.0, 1.0), 2),  # isotropic: across superior-inferior
        ((2.5, 1.0, 2.5), 2),
        ((1.0, 2.5, 2.5), 2),
        ((0.625, 0.625, 2.5), 2),  # axial LGE
        ((1.5, 1.5, 1.48), 2),  # nearly isotropic axial scans
        ((1.3, 1.34, 1.3), 2),
        ((1.5, 1.5, 1.4), 2),
        ((1.3, 1.3, 1.25), 2),
        ((1.5, 1.5, 1.2), 2),  # overlapping slices
        ((1.5, 1.5, 0.75), 2),  # square pixels lie in the plane
        ((1.4, 1.3, 1.1), 2),
        ((1.0, 1.5, 1.0), 1),  # coronal angiography
        ((1.4, 8.0, 1.4), 1),
        ((8.0, 1.4, 1.4), 0),
        ((1.0, 4 / 3 + 0.01, 1.0), 1),
        ((1.5, 2.0, 1.5), 1),  # 4 / 3, but for the rounding of float32
        ((1.0, 4 / 3 - 0.01, 1.0), 2),
    ],
)
def test_slices_are_cut_across_the_body_unless_another_axis_is_far_coarser(spacing, axis):
    for permutation, signs in ORIENTATIONS:
        affine = affine_of(permutation, signs, spacing)
        slices, geometry = to_slices(np.zeros(SHAPE), affine.astype(np.float32))
        assert geometry.plane == ("sagittal", "coronal", "axial")[axis]
        assert geometry.axis == axis
        assert geometry.volume_axis == permutation.index(axis)
        assert len(slices) == SHAPE[geometry.volume_axis]
        column, row = (a for a in range(3) if a != axis)
        np.testing.assert_allclose(geometry.spacing, [spacing[a] for a in (axis, row, column)])


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_a_plane_that_is_told_is_cut(plane, axis):
    array = np.random.default_rng(0).integers(0, 1000, SHAPE)
    for permutation, signs in ORIENTATIONS:
        slices, geometry = to_slices(array, affine_of(permutation, signs), plane)
        assert geometry.plane == plane and geometry.volume_axis == permutation.index(axis)
        np.testing.assert_array_equal(from_slices(slices, geometry), array)


def test_a_plane_that_was_not_trained_on_is_refused():
    _, geometry = to_slices(np.zeros(SHAPE), affine_of(spacing=(1.0, 1.5, 1.0)))
    check_trained_plane(geometry, (), "a volume")  # nothing is known
    check_trained_plane(geometry, ("axial", "coronal"), "a volume")
    with pytest.raises(InputError) as error:
        check_trained_plane(geometry, ("axial",), "a volume")
    for text in ("a volume: coronal slices of 1.5 mm", "expected axial", "--plane=axial"):
        assert text in str(error.value)


@pytest.mark.parametrize("name", ["axail", "Axial", "oblique"])
def test_names_of_planes(name):
    check_plane("--plane", "coronal")
    check_plane("--plane", "")
    with pytest.raises(InputError, match="--plane"):
        check_plane("--plane", name)


def test_slices_of_a_sheared_volume_are_as_far_apart_as_their_planes():
    affine = np.diag([1.5, 1.5, 2.75, 1.0])
    affine[1, 2] = 2.75 * np.tan(np.deg2rad(30))
    _, geometry = to_slices(np.zeros(SHAPE), affine)
    np.testing.assert_allclose(geometry.spacing, (2.75, 1.5, 1.5))


# Padding and resizing


def test_a_rectangular_slice_lies_centred():
    masks = network_masks(np.ones((2, 10, 20), np.uint8), 40)  # every pixel becomes 2 x 2
    expected = np.zeros((2, 40, 40), np.uint8)
    expected[:, 10:30] = 1
    assert masks.dtype == np.uint8
    np.testing.assert_array_equal(masks, expected)
    standing = network_masks(np.ones((2, 20, 10), np.uint8), 40)
    np.testing.assert_array_equal(standing, expected.transpose(0, 2, 1))


@pytest.mark.parametrize("size", [14, 98, 196])
def test_a_slice_of_ones_stays_a_slice_of_ones(size):
    np.testing.assert_array_equal(network_masks(np.ones((1, 53, 53), np.uint8), size), 1)
    assert not network_masks(np.zeros((1, 53, 53), np.uint8), size).any()


@pytest.mark.parametrize(("height", "width"), [(36, 53), (53, 36), (31, 31)])
@pytest.mark.parametrize("size", [28, 70])
def test_images_equal_explicit_padding_and_resizing(height, width, size):
    slices = np.random.default_rng(0).integers(-50, 500, (3, height, width)).astype(np.int16)
    percentiles = (5.0, 90.0)
    low, high = np.percentile(slices, percentiles)
    scaled = np.clip((slices - low) / (high - low), 0, 1)
    side = max(height, width)
    square = np.zeros((3, side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[:, top : top + height, left : left + width] = scaled
    reference = jax.image.resize(square, (3, size, size), "linear")
    images = network_images(slices, size, percentiles)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, reference, atol=1e-5)


@pytest.mark.parametrize("size", [98, 196])
@pytest.mark.parametrize(("height", "width"), [(131, 97), (97, 131), (113, 113)])
def test_there_and_back(height, width, size):
    """A smooth probability survives with its values, a mask with its outline and its place."""
    rows, columns = resize_matrices(height, width, size)
    back_rows, back_columns = restore_matrices(height, width, size)
    assert rows.shape == (size, height) and columns.shape == (size, width)
    assert back_rows.shape == (height, size) and back_columns.shape == (width, size)
    y, x = np.indices((height, width))
    bump = np.exp(-((y - 0.4 * height) ** 2 + (x - 0.6 * width) ** 2) / (2 * 9**2))
    restored = back_rows @ (rows @ bump @ columns.T) @ back_columns.T
    np.testing.assert_allclose(restored, bump, atol=0.02)

    mask = disc(height, width, 20)
    probability = network_masks(mask[None], size)[0].astype(np.float32)
    restored = back_rows @ probability @ back_columns.T >= 0.5
    assert dice(mask, restored) > 0.97
    found, true = (np.mean(np.argwhere(m), axis=0) for m in (restored, mask))
    np.testing.assert_allclose(found, true, atol=0.1)
