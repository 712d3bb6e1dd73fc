"""The surface is closed, smooth, points outwards, and lies where the mask lies."""

import sys

import nibabel
import numpy as np
import pytest

from lagseg_jax.imaging import mesh
from lagseg_jax.imaging.masks import label_components
from lagseg_jax.imaging.mesh import MeshOptions, atrium_surface, check_mesh_support
from lagseg_jax.imaging.mesh_distance import voxel_distances
from lagseg_jax.imaging.triangles import body_of_each, enclosed, is_closed, samples
from lagseg_jax.runtime.errors import InputError

pytest.importorskip("fast_simplification")
SHAPE = (41, 37, 31)
CENTRE = (20.3, 18.1, 14.7)


def affine(spacing, turn=None, origin=(-31.0, 17.0, 5.0)):
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing) if turn is None else turn @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
AFFINES = {
    "straight": affine((1.0, 1.0, 1.0)),
    "anisotropic": affine((0.7, 0.9, 2.5)),
    "oblique": affine((0.7, 0.8, 1.5), TURN * np.linalg.det(TURN)),
    "left-handed": affine((0.7, 0.8, 1.5), TURN * -np.linalg.det(TURN)),
}


def ball(shape=SHAPE, centre=CENTRE, radius=11.0):
    """Probability that falls from 1 to 0 across the surface of a ball, in voxels."""
    distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(np.indices(shape), centre)))
    return (1 / (1 + np.exp(2 * (distance - radius)))).astype(np.float32)


def normals_of(surface):
    """Unit normals (N, 3), areas (N,) and centres (N, 3) of the triangles."""
    corners = surface.points[surface.triangles].astype(np.float64)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    twice = np.linalg.norm(across, axis=1)
    return across / twice[:, None], twice / 2, corners.mean(1)


def assert_kept(surface, mask, affine):
    """What is promised of every surface, measured anew from its points in mm."""
    assert surface.points.dtype == np.float32
    assert is_closed(surface.points, surface.triangles)
    voxel = abs(np.linalg.det(affine[:3, :3]))
    volume = enclosed(surface.points - surface.points.mean(0), surface.triangles)
    assert volume == pytest.approx(np.count_nonzero(mask) * voxel, rel=0.01)
    to_mm = affine if surface.space == "RAS" else np.diag([-1, -1, 1, 1]) @ affine
    voxels = nibabel.affines.apply_affine(np.linalg.inv(to_mm), surface.points)
    far = voxel_distances(samples(voxels, surface.triangles, 3001), mask)
    assert np.percentile(far, 95) <= 0.5
    assert surface.distance == pytest.approx(np.percentile(far, 95), abs=0.03)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("kind", ["probability", "mask"])
@pytest.mark.parametrize("space", ["LPS", "RAS"])
def test_ball_is_closed_outward_in_place_and_of_the_right_volume(name, kind, space):
    mask = ball() >= 0.5
    field = ball() if kind == "probability" else None
    surface = atrium_surface(mask, field, 0.5, AFFINES[name], 2000, space)
    assert_kept(surface, mask, AFFINES[name])
    assert 1900 <= len(surface.triangles) <= 2000 and not surface.remark
    expected = nibabel.affines.apply_affine(AFFINES[name], np.argwhere(mask)).mean(0)
    expected *= [1, 1, 1] if space == "RAS" else [-1, -1, 1]
    normals, areas, centres = normals_of(surface)
    np.testing.assert_allclose(np.average(centres, 0, areas), expected, atol=0.1)
    assert (((centres - expected) * normals).sum(1) > 0).all()


@pytest.mark.parametrize(("name", "degrees"), [("straight", 4), ("anisotropic", 8)])
def test_no_stair_steps(name, degrees):
    """Normals of a ball known by its voxels alone; between the centres they are 20 and 29 off."""
    spacing = np.linalg.norm(AFFINES[name][:3, :3], axis=0)
    grid = np.indices((61, 59, 53)) * spacing[:, None, None, None]
    centre = np.array([30.3, 29.1, 26.7]) * spacing
    mask = ((grid - centre[:, None, None, None]) ** 2).sum(0) < 20**2
    surface = atrium_surface(mask, None, 0.5, np.diag([*spacing, 1]), 8000, "RAS")
    normals, areas, centres = normals_of(surface)
    outwards = (centres - centre) / np.linalg.norm(centres - centre, axis=1, keepdims=True)
    off = np.degrees(np.arccos(np.clip((normals * outwards).sum(1), -1, 1)))
    assert np.average(off, weights=areas) < degrees


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_ball_has_the_radius_of_the_probability(threshold):
    """Nothing is pulled inwards."""
    surface = atrium_surface(ball() >= threshold, ball(), threshold, np.eye(4), space="RAS")
    radius = np.linalg.norm(surface.points - CENTRE, axis=1)
    expected = 11 + np.log(1 / threshold - 1) / 2
    assert radius.mean() == pytest.approx(expected, abs=0.04) and radius.std() < 0.04


def thin_masks():
    masks = {name: np.zeros((15, 17, 5), bool) for name in ("voxel", "line", "plane", "corners")}
    masks["voxel"][4, 5, 2] = True
    masks["line"][4, 3:12, 2] = True
    masks["plane"][2:9, 3:12, 2] = True
    masks["corners"][[3, 4, 5], [3, 4, 5], [1, 2, 3]] = True
    masks["noise"] = np.random.default_rng(0).random((9, 10, 11)) < 0.4
    masks["border"] = np.ones((11, 7, 5), bool)
    return masks


@pytest.mark.parametrize("name", thin_masks())
def test_the_thinnest_masks_keep_the_promises_too(name):
    mask = thin_masks()[name]
    surface = atrium_surface(mask, None, 0.5, AFFINES["anisotropic"], 100)
    assert_kept(surface, mask, AFFINES["anisotropic"])
    body = body_of_each(surface.triangles)
    bodies = [surface.triangles[body == number] for number in range(body.max() + 1)]
    outer = [one for one in bodies if enclosed(surface.points - surface.points.mean(0), one) > 0]
    assert len(outer) == len(label_components(mask)[1])


def test_a_small_body_stays_beside_a_large_one_that_is_thinned():
    mask = ball() >= 0.5
    mask[2, 3, 4] = True
    surface = atrium_surface(mask, None, 0.5, np.eye(4), 1000)
    assert np.bincount(body_of_each(surface.triangles)).min() == 8
    assert len(surface.triangles) <= 1000


def test_a_dropped_voxel_at_the_threshold_is_as_any_other():
    probability = np.zeros((5, 5, 5), np.float32)
    probability[2, 2, 2] = 1
    mask = probability == 1
    alone = atrium_surface(mask, probability, 0.5, np.eye(4))
    for dropped in (0.5, 0.75):
        probability[3, 2, 2] = dropped
        again = atrium_surface(mask, probability, 0.5, np.eye(4))
        np.testing.assert_array_equal(again.points, alone.points)


def test_dropped_components_have_no_surface():
    small = ball(centre=(4.0, 5.0, 6.0), radius=2.5)
    mask = ball() >= 0.5
    surface = atrium_surface(mask, np.maximum(ball(), small), 0.5, np.eye(4))
    assert_kept(surface, mask, np.eye(4))
    assert (surface.points[:, 2] > 2.5).all()


HARMS = {
    "open": lambda points, faces: (points, faces[1:]),
    "two bodies": lambda points, faces: (
        np.concatenate([points, points + 1]),
        np.concatenate([faces, faces + len(points)]),
    ),
    "far": lambda points, faces: (points * [1, 1, 0.5], faces),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_what_thinning_breaks_is_not_thinned_and_said(monkeypatch, harm):
    real = mesh._thinned
    monkeypatch.setattr(mesh, "_thinned", lambda *given: harm(*real(*given)))
    mask = ball() >= 0.5
    surface = atrium_surface(mask, None, 0.5, np.eye(4), 500)
    assert_kept(surface, mask, np.eye(4))
    assert "not thinned, as else" in str(surface) and len(surface.triangles) > 1000


def test_a_surface_that_smoothing_breaks_is_not_smoothed(monkeypatch):
    monkeypatch.setattr(mesh, "_smoothed", lambda points, *_: points * [1, 1, 0.3])
    surface = atrium_surface(ball() >= 0.5, None, 0.5, np.eye(4))
    assert_kept(surface, ball() >= 0.5, np.eye(4))
    assert "neither smoothed nor thinned, as else 5 % of it are" in str(surface)


def test_empty_mask_is_an_empty_surface():
    surface = atrium_surface(np.zeros(SHAPE), np.zeros(SHAPE, np.float32), 0.5, np.eye(4))
    assert surface.points.shape == surface.triangles.shape == (0, 3)
    assert str(surface) == "0 triangles in mm, LPS"


def test_the_place_of_a_file_says_ras():
    assert MeshOptions().place("a.b").as_posix() == "meshes/a.b.stl"
    assert MeshOptions("ply", "RAS").place("a").as_posix() == "meshes_RAS/a.ply"


def test_distance_from_the_faces_of_voxels():
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2:4] = True
    points = [(2, 2, 2), (2, 2, 2.5), (2.5, 2, 3), (2, 3.5, 3), (4, 4, 5)]
    found = voxel_distances(np.array(points, float), mask)
    np.testing.assert_allclose(found, [0.5, 0.5, 0, 1, np.sqrt(3) * 1.5])
    in_mm = voxel_distances(np.array(points, float), mask, (2, 3, 7))
    np.testing.assert_allclose(in_mm, [1, 1, 0, 3, 1.5 * np.sqrt(4 + 9 + 49)])


def test_without_fast_simplification_one_sentence(monkeypatch):
    check_mesh_support()
    monkeypatch.setitem(sys.modules, "fast_simplification", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"\[mesh\]"):
        check_mesh_support()
