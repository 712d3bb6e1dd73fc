"""Volumes, distances and agreement of grids follow the affine, whatever its shear."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.grid import (
    TOLERANCE,
    column_lengths,
    corner_shift,
    directions,
    plane_distances,
    shear_degrees,
    tilt_degrees,
    voxel_mm3,
)
from lagseg_jax.imaging.remarks import remarks
from lagseg_jax.imaging.volume import check_same_geometry, on_grid_of, read_volume
from lagseg_jax.runtime.errors import InputError


def sheared(degrees, spacing=(1.5, 1.25, 2.75)):
    """Slices shifted along y against each other, as by gantry tilt."""
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.deg2rad(degrees))
    return shear @ np.diag([-spacing[0], -spacing[1], spacing[2], 1])


@pytest.mark.parametrize("degrees", [0, 5, 20, 30])
def test_a_sheared_voxel(degrees):
    affine = sheared(degrees)
    assert voxel_mm3(affine) == pytest.approx(1.5 * 1.25 * 2.75)
    cosine = np.cos(np.deg2rad(degrees))
    np.testing.assert_allclose(column_lengths(affine), (1.5, 1.25, 2.75 / cosine))
    np.testing.assert_allclose(plane_distances(affine), (1.5, 1.25 * cosine, 2.75))
    assert shear_degrees(affine) == pytest.approx(degrees, abs=1e-5)


@pytest.mark.parametrize(("degrees", "said"), [(0.9, False), (1.1, True)])
def test_more_than_a_degree_of_shear_is_said(degrees, said):
    array = np.zeros((2, 3, 5))
    volume = Volume(array, sheared(degrees), array.shape, {}, Path("a.nii"))
    assert bool(remarks(volume)) == said


@pytest.mark.parametrize("axis", "xyz")
@pytest.mark.parametrize(("degrees", "said"), [(0, 0), (20, 0), (30, 1), (60, 1), (90, 0)])
def test_a_heart_that_is_turned_more_than_in_training_is_said(axis, degrees, said):
    affine = np.diag([-1.25, -1.25, 2.75, 1])
    affine[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix() @ affine[:3, :3]
    assert tilt_degrees(affine) == pytest.approx(min(degrees, 90 - degrees), abs=1e-5)
    array = np.zeros((2, 3, 5))
    found = remarks(Volume(array, affine, array.shape, {}, Path("a.nii")))
    assert len(found) == said and all("tilted by 30 degrees" in one for one in found)


@pytest.mark.parametrize(
    ("spacing", "plane", "said"),
    [
        ((1.25, 1.25, 2.5), "", ""),
        ((1.25, 8, 1.25), "", ""),  # coronal
        ((1.25, 8, 1.25), "axial", "axial slices with pixels of 1.25 x 8 mm"),
        ((2.5, 1.25, 2.5), "", "axial slices with pixels of 2.5 x 1.25 mm"),
        ((1250, 1250, 2500), "", "voxels of 1250 x 1250 x 2500 mm"),  # micrometres
        ((1.25, 1.25, 12.5), "", "voxels of 1.25 x 1.25 x 12.5 mm"),
        ((0.1, 0.1, 0.5), "", "voxels of 0.1 x 0.1 x 0.5 mm"),
    ],
)
def test_pixels_that_are_not_square_and_sizes_that_cannot_be_are_said(spacing, plane, said):
    array = np.zeros((2, 3, 5))
    volume = Volume(array, np.diag([*spacing, 1]), array.shape, {}, Path("a.nii"))
    found = [re.split(";|, expected", one)[0] for one in remarks(volume, plane)]
    assert found == [said] * bool(said)


@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2)])
def test_every_pair_of_axes_counts(axes):
    affine = np.diag([1.5, 1.25, 2.75, 1])
    affine[axes] = affine[axes[1], axes[1]] * np.tan(np.deg2rad(7))
    assert shear_degrees(affine) == pytest.approx(7)


def test_rotations_and_mirrors_are_no_shear():
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0] @ np.diag([1, 2, -3])
    assert shear_degrees(turned) == pytest.approx(0, abs=1e-5)
    assert voxel_mm3(turned) == pytest.approx(6)
    np.testing.assert_allclose(column_lengths(turned), plane_distances(turned))


def test_a_spacing_is_an_affine_of_right_angles():
    np.testing.assert_array_equal(directions((1, 2, 3)), np.diag([1, 2, 3]))
    assert voxel_mm3((1, 2, 3)) == pytest.approx(6)


@pytest.mark.parametrize("grid", [(1, 2), (1, 0, 3), (1, -2, 3), (1, 2, np.nan), np.zeros((4, 4))])
def test_what_is_no_grid_is_refused(grid):
    with pytest.raises(ValueError, match="three positive numbers"):
        directions(grid)


def save(path, affine, shape):
    nib.save(nib.Nifti1Image(np.zeros(shape, np.uint8), affine), path)
    return read_volume(path)


@pytest.mark.parametrize(
    ("row", "column", "change", "same"),
    [
        (0, 3, 0.0015, True),  # an offset of 0.002 voxels
        (0, 3, 0.01, True),
        (2, 3, 0.24, True),  # 0.096 voxels of 2.5 mm
        (2, 3, 0.26, False),
        (0, 0, -0.00009, True),  # 0.06 mm at voxel 640
        (0, 0, -0.0009, False),  # 0.58 mm
        (0, 1, 0.0009, False),
        (1, 3, 0.3125, False),  # corners taken for centres
    ],
)
def test_same_grid_is_how_far_a_corner_moves(tmp_path, row, column, change, same):
    affine, shape = np.diag([-0.625, -0.625, 2.5, 1.0]), (640, 640, 4)
    other = affine.copy()
    other[row, column] += change
    image, label = (save(tmp_path / f"{n}.nii.gz", a, shape) for n, a in zip("ab", (affine, other)))
    assert (corner_shift(affine, other, shape) <= TOLERANCE) == same
    if same:
        check_same_geometry(image, label)
        return
    with pytest.raises(InputError, match=r"voxels apart.*'geometry' can be allowed"):
        check_same_geometry(image, label)
    laid = on_grid_of(image, label, ("geometry",))
    np.testing.assert_array_equal(laid.affine, image.affine)


def test_other_shapes_are_never_allowed(tmp_path):
    image, label = (save(tmp_path / f"{n}.nii", np.eye(4), (5, 7, n)) for n in (11, 13))
    with pytest.raises(InputError, match=r"\(5, 7, 13\) found"):
        on_grid_of(image, label, ("geometry",))


def test_a_corner_far_from_the_origin_counts_in_voxels_of_each_axis():
    affine = np.diag([1.0, 1.0, 10.0, 1.0])
    moved = affine.copy()
    moved[2, 3] = 1.0  # a tenth of a slice
    assert corner_shift(affine, moved, (3, 5, 7)) == pytest.approx(0.1)
    stretched = np.diag([1.0, 1.0, 11.0, 1.0])
    assert corner_shift(affine, stretched, (3, 5, 7)) == pytest.approx(0.65)
    stretched[2, 3] = -6.5  # about its far end: the near corner moves
    assert corner_shift(affine, stretched, (3, 5, 7)) == pytest.approx(0.7)
