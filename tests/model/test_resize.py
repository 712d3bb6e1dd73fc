"""Linear resizing equals jax.image.resize and torch, keeps constants, and doubles exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lagseg_jax.imaging.interpolation import linear_matrix
from lagseg_jax.model.resize import resize_linear, upsample_double

# Up and down by a little and by a lot, doubled, halved, the same, from one pixel and to one.
SIZES = [(11, 23), (23, 11), (29, 31), (31, 29), (7, 97), (97, 7), (13, 26), (26, 13), (7, 7)]
SIZES += [(1, 5), (5, 1)]


@pytest.mark.parametrize(("size", "new"), SIZES)
def test_matrix_equals_jax(size, new):
    reference = jax.image.resize(jnp.eye(size), (new, size), "linear", antialias=True)
    np.testing.assert_allclose(linear_matrix(size, new), reference, atol=2e-6)


@pytest.mark.parametrize(("size", "new"), SIZES)
def test_maps_equal_torch(size, new):
    """Rows and columns are resized differently, so that mixing them up shows."""
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, size, 19, 3)).astype(np.float32)
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2),
        size=(new, 17),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    ours = resize_linear(jnp.asarray(x), (new, 17))
    np.testing.assert_allclose(ours, reference.permute(0, 2, 3, 1), atol=2e-5)


def test_matrix_by_hand():
    doubled = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_array_equal(linear_matrix(2, 4), np.array(doubled, np.float32))
    # Halving widens the triangle to 4 pixels: 3, 3, 1 of 8 and the first 1 beyond the border.
    halved = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    np.testing.assert_allclose(linear_matrix(4, 2), halved, rtol=1e-6)


@pytest.mark.parametrize(("size", "new"), SIZES)
def test_matrix_keeps_constants_and_has_no_favourite_side(size, new):
    matrix = linear_matrix(size, new)
    assert matrix.shape == (new, size) and matrix.dtype == np.float32
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("step", [0.75, 1, 1.1])
def test_a_step_counts_where_the_size_stays(step):
    x = np.random.default_rng(0).normal(size=(2, 7, 7, 3)).astype(np.float32)
    matrix = linear_matrix(7, 7, step)
    assert np.isfinite(matrix).all()
    found = resize_linear(jnp.asarray(x), (7, 7), step)
    np.testing.assert_allclose(found, np.einsum("ih,jw,bhwc->bijc", matrix, matrix, x), atol=1e-5)


def test_the_cached_matrix_cannot_be_changed_by_its_users():
    with pytest.raises(ValueError, match="read-only"):
        linear_matrix(7, 5)[0, 0] = 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (11, 1), (2, 3), (13, 17)])
def test_doubling_from_slices_is_the_same_function(height, width):
    # Small integers: every product and sum is exact, in whatever order.
    x = np.random.default_rng(0).integers(-50, 50, (2, height, width, 3)).astype(np.float32)
    doubled = upsample_double(jnp.asarray(x))
    assert doubled.shape == (2, 2 * height, 2 * width, 3)
    np.testing.assert_array_equal(doubled, resize_linear(x, (2 * height, 2 * width)))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (11, 1), (2, 3), (13, 17)])
def test_the_gradient_of_doubling_is_that_of_the_matrices(height, width):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-50, 50, (2, height, width, 3)), jnp.float32)
    cotangent = jnp.asarray(rng.integers(-50, 50, (2, 2 * height, 2 * width, 3)), jnp.float32)
    (found,) = jax.vjp(upsample_double, x)[1](cotangent)
    (expected,) = jax.vjp(lambda x: resize_linear(x, (2 * height, 2 * width)), x)[1](cotangent)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("resize", [lambda x: resize_linear(x, (5, 17)), upsample_double])
def test_the_type_is_kept(resize):
    assert resize(jnp.ones((1, 7, 11, 2), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [42, 98, 196, 224, 252, 336, 448, 490, 518, 14 * 13])
@pytest.mark.parametrize("scales", [(8, 4, 2), (8, 4, 2, 1)])
def test_all_maps_of_the_decoder_lie_over_each_other(size, scales):
    """An affine ramp of the image position stays that ramp on every way between the maps.

    Pixel i of a map at 1/s lies at (i + 0.5) s image pixels; sizes are rounded up. At the borders,
    where kernels are cut off, there is less to compare.
    """
    if size % scales[-1]:
        pytest.skip("no size of images for these scales")

    def ramp(stride):
        places = (np.arange(-(-size // stride)) + 0.5) * stride
        return jnp.asarray(places[:, None] - 2 * places, jnp.float32)[None, ..., None]

    def compare(found, stride, border, atol=1e-3):
        inner = np.s_[0, border:-border, border:-border]
        assert found[inner].size
        np.testing.assert_allclose(found[inner], ramp(stride)[inner], rtol=0, atol=atol)

    for stride in scales:
        shape = ramp(stride).shape[1:3]
        compare(resize_linear(ramp(14), shape, stride / 14), stride, 14 // stride + 1)
        compare(resize_linear(ramp(1), shape, stride), stride, 2)
    for coarse, fine in itertools.pairwise(scales):
        height, width = ramp(fine).shape[1:3]
        compare(upsample_double(ramp(coarse))[:, :height, :width], fine, 2)
    # A kernel of 1.75 pixels does not meet all of them alike: within a pixel of the image.
    compare(resize_linear(ramp(8), ramp(14).shape[1:3], 14 / 8), 14, 1, atol=2)
