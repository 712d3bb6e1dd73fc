"""The surface is closed, points outwards, lies where the mask lies, and is read back from STL."""

import struct
import sys
from collections import Counter

import nibabel
import numpy as np
import pytest

from lagseg_jax.imaging.masks import volume_ml
from lagseg_jax.imaging.mesh import atrium_surface, check_mesh_support, enclosed_ml, write_stl
from lagseg_jax.runtime.errors import InputError

pytest.importorskip("skimage")
SHAPE = (41, 37, 31)


def rotation(seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]


def affine(spacing, turn=None, origin=(-31.0, 17.0, 5.0)):
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing) if turn is None else turn @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


TURN = rotation(0)
AFFINES = {
    "straight": affine((1.0, 1.0, 1.0)),
    "anisotropic": affine((0.7, 0.9, 2.5)),
    "oblique": affine((0.7, 0.8, 1.5), TURN * np.linalg.det(TURN)),
    "left-handed": affine((0.7, 0.8, 1.5), TURN * -np.linalg.det(TURN)),
}


def ball(shape=SHAPE, centre=(20.3, 18.1, 14.7), radius=11.0):
    """Probability that falls from 1 to 0 across the surface of a ball, in voxels."""
    distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(np.indices(shape), centre)))
    return (1 / (1 + np.exp(2 * (distance - radius)))).astype(np.float32)


def edges(triangles):
    """How often each directed edge occurs; corners are told apart by their exact coordinates."""
    _, index = np.unique(triangles.reshape(-1, 3), axis=0, return_inverse=True)
    corners = index.reshape(-1, 3).tolist()
    return Counter(edge for a, b, c in corners for edge in ((a, b), (b, c), (c, a)))


def assert_watertight(triangles):
    found = edges(triangles)
    assert all(a != b for a, b in found), "a triangle without area"
    assert all(found[b, a] == count for (a, b), count in found.items())


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("kind", ["probability", "mask"])
def test_ball_is_closed_outward_and_of_the_right_volume(name, kind):
    probability = ball()
    mask = probability >= 0.5
    field = probability if kind == "probability" else mask
    triangles = atrium_surface(mask, field, 0.5, AFFINES[name])
    assert triangles.dtype == np.float32 and triangles.shape[1:] == (3, 3)
    assert_watertight(triangles)
    spacing = np.linalg.norm(AFFINES[name][:3, :3], axis=0)
    assert enclosed_ml(triangles) == pytest.approx(volume_ml(mask, spacing), rel=0.02)
    # In scanner coordinates, LPS: its centre of mass is that of the voxels.
    expected = nibabel.affines.apply_affine(AFFINES[name], np.argwhere(mask)).mean(0) * [-1, -1, 1]
    np.testing.assert_allclose(triangles.reshape(-1, 3).mean(0), expected, atol=0.3)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    outwards = ((triangles.mean(1) - expected) * normals).sum(1)
    assert (outwards > 0).all()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_ball_has_the_radius_of_the_probability(threshold):
    """Interpolated between voxels, straight: exact to a fiftieth of a voxel where `ball` is."""
    triangles = atrium_surface(ball() >= threshold, ball(), threshold, np.eye(4))
    radius = np.linalg.norm(triangles.reshape(-1, 3) * [-1, -1, 1] - (20.3, 18.1, 14.7), axis=1)
    expected = 11 + np.log(1 / threshold - 1) / 2
    exact = 0.02 if threshold == 0.5 else 0.06
    assert radius.mean() == pytest.approx(expected, abs=exact) and np.ptp(radius) < 0.3


def test_a_dropped_voxel_at_the_threshold_is_as_any_other():
    probability = np.zeros((5, 5, 5), np.float32)
    probability[2, 2, 2] = 1
    mask = probability == 1
    alone = atrium_surface(mask, probability, 0.5, np.eye(4))
    for dropped in (0.5, 0.75):
        probability[3, 2, 2] = dropped
        np.testing.assert_array_equal(atrium_surface(mask, probability, 0.5, np.eye(4)), alone)


def test_closed_where_the_volume_ends():
    probability = np.full(SHAPE, 0.9, np.float32)
    triangles = atrium_surface(probability >= 0.5, probability, 0.5, np.eye(4))
    assert_watertight(triangles)
    assert enclosed_ml(triangles) == pytest.approx(np.prod(SHAPE) / 1000, rel=0.05)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_noise_is_watertight_and_separates_the_mask(threshold):
    """Every contact of voxels occurs, and probabilities that equal the threshold."""
    probability = np.random.default_rng(1).random((9, 10, 11)).astype(np.float32)
    probability.flat[::7] = threshold
    mask = probability >= np.float32(threshold)
    triangles = atrium_surface(mask, probability, np.float32(threshold), np.eye(4))
    assert_watertight(triangles)
    # A ray from each voxel along z crosses the surface an odd number of times inside.
    inside = np.zeros(mask.shape, bool)
    shifted = np.argwhere(np.ones(mask.shape)) + np.array([1.371e-3, 2.113e-3, 0])
    flat = triangles * [-1, -1, 1]
    for number, point in enumerate(shifted):
        a, b, c = (flat[:, i] - point for i in range(3))
        areas = np.stack(
            [p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0] for p, q in ((b, c), (c, a), (a, b))]
        )
        hit = (areas > 0).all(0) | (areas < 0).all(0)
        heights = (areas * np.stack([a, b, c])[:, :, 2]).sum(0)[hit] / areas.sum(0)[hit]
        inside.flat[number] = np.count_nonzero(heights > 0) % 2
    np.testing.assert_array_equal(inside, mask)


def test_dropped_components_have_no_surface():
    small = ball(centre=(4.0, 5.0, 6.0), radius=2.5)
    both = np.maximum(ball(), small)
    mask = ball() >= 0.5
    triangles = atrium_surface(mask, both, 0.5, np.eye(4))
    assert enclosed_ml(triangles) == pytest.approx(mask.sum() / 1000, rel=0.02)
    assert (triangles.reshape(-1, 3)[:, 2] > 2.5).all()


def test_stl_is_what_3d_slicer_reads(tmp_path):
    triangles = atrium_surface(ball() >= 0.5, ball(), 0.5, AFFINES["oblique"])
    path = tmp_path / "Müller.stl"
    write_stl(path, triangles)
    content = path.read_bytes()
    assert not content.startswith(b"solid") and b"SPACE=LPS" in content[:80]
    assert struct.unpack_from("<I", content, 80)[0] == len(triangles)
    assert len(content) == 84 + 50 * len(triangles)
    rows = [struct.unpack_from("<12fH", content, 84 + 50 * i) for i in range(0, len(triangles), 97)]
    for row, triangle in zip(rows, triangles[::97]):
        np.testing.assert_array_equal(np.reshape(row[3:12], (3, 3)), triangle)
        normal = np.array(row[:3])
        assert np.linalg.norm(normal) == pytest.approx(1, abs=1e-5) and row[12] == 0
        assert abs(normal @ (triangle[1] - triangle[0])) < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_empty_mask_is_an_empty_surface(tmp_path):
    triangles = atrium_surface(np.zeros(SHAPE), np.zeros(SHAPE, np.float32), 0.5, np.eye(4))
    assert triangles.shape == (0, 3, 3)
    write_stl(tmp_path / "a.stl", triangles)
    assert len((tmp_path / "a.stl").read_bytes()) == 84


def test_without_scikit_image_one_sentence(monkeypatch):
    check_mesh_support()
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"\[mesh\]"):
        check_mesh_support()
