"""Letters, positions and bars are those of the patient, however the file stores its voxels."""

import itertools

import numpy as np
import pytest

from lagseg_jax.imaging.orientation import affine_of_letters
from lagseg_jax.imaging.slices import PLANES, to_slices
from lagseg_jax.imaging.views import picture, scale_bar, side, slices_affine, view_of, views

SHAPE = (5, 7, 11)
SPACING = np.array([1.3, 0.9, 2.0])
ORIENTATIONS = [
    "".join(letters)
    for pairs in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*pairs)
]
# Direction of each letter in RAS.
TO = {"R": (1, 0, 0), "A": (0, 1, 0), "S": (0, 0, 1)}
TO |= {other: tuple(-x for x in TO[one]) for one, other in ("RL", "AP", "SI")}
SHOWN = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}


def positions(affine):
    """RAS position of every voxel: (x, y, z, 3)."""
    return np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def pictures_of(affine, plane=""):
    """{plane: (view, picture whose pixels are positions, step from picture to picture)}."""
    where = positions(affine)
    cut = [to_slices(where[..., axis], affine, plane) for axis in range(3)]
    geometry = cut[0][1]
    slices = [one for one, _ in cut]
    for view in views(slices_affine(affine, SHAPE, geometry), geometry.axis):
        first = np.stack([picture(one, view, 0) for one in slices], -1)
        second = np.stack([picture(one, view, 1) for one in slices], -1)
        yield view, first, second - first


def test_all_48_orientations_are_tried():
    assert len(ORIENTATIONS) == len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("letters", ORIENTATIONS)
def test_letters_name_the_sides_of_the_patient(letters):
    affine = affine_of_letters(letters, SPACING)
    affine[:3, 3] = -31, 17, 5
    found = {}
    for view, where, step in pictures_of(affine):
        found[view.plane] = "".join(view.letters)
        left, right, top, bottom = (np.array(TO[letter]) for letter in view.letters)
        to_right, to_bottom = where[0, 1] - where[0, 0], where[1, 0] - where[0, 0]
        np.testing.assert_allclose(to_right, right * view.spacing[2], atol=1e-9)
        np.testing.assert_allclose(to_bottom, bottom * view.spacing[1], atol=1e-9)
        np.testing.assert_allclose(np.abs(step[0, 0]).max(), view.spacing[0])
        assert (left == -right).all() and (top == -bottom).all()
    assert found == SHOWN  # every plane, as radiologists look


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("seed", range(7))
def test_letters_of_oblique_and_sheared_slices(seed, plane):
    draw = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(draw.normal(size=(3, 3)))[0] * SPACING
    affine[:3, :3] += draw.normal(size=(3, 3)) * 0.05
    for number, (view, where, _) in enumerate(pictures_of(affine, plane)):
        assert number or view.plane == plane
        ways = where[0, 0] - where[0, 1], where[0, 1] - where[0, 0]
        ways += where[0, 0] - where[1, 0], where[1, 0] - where[0, 0]
        for letters, way in zip(view.letters, ways):
            cosines = [way @ TO[letter] / np.linalg.norm(way) for letter in letters]
            assert cosines == sorted(cosines, reverse=True) and cosines[-1] > 0.1
            others = [np.array(TO[one]) @ way for one in TO if one not in letters]
            assert max(others) <= 0.1 * np.linalg.norm(way) + 1e-9


def test_the_affine_of_slices_leads_to_where_their_voxels_lie():
    affine = affine_of_letters("PSL", SPACING)
    affine[:3] += np.random.default_rng(3).normal(size=(3, 4)) * 0.1
    where = positions(affine)
    for axis in range(3):
        slices, geometry = to_slices(where[..., axis], affine)
        found = slices_affine(affine, SHAPE, geometry)
        index = np.moveaxis(np.indices(slices.shape), 0, -1)
        np.testing.assert_allclose(index @ found[axis, :3] + found[axis, 3], slices)
        assert view_of(found) == views(found, geometry.axis)[0]


def test_side():
    assert side([0, 0, -3]) == "I" and side([-2, 0.1, 0]) == "L"
    assert side([1, -2, 0.5]) == "PRS" and side([0.7, 0, 0.71]) == "SR"


def test_scale_bar_fits():
    assert [scale_bar(mm) for mm in (2, 59, 60, 300, 450, 5000)] == [1, 10, 20, 100, 100, 200]
