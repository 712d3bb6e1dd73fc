"""ConvBlock: its parts against float32, Flax and hand-made sums, as compiled for training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lagseg_jax.model import convolution
from lagseg_jax.model.backend import decoder_compiler_options
from lagseg_jax.model.convolution import conv3x3, kernel_gradient
from lagseg_jax.model.decoder import ConvBlock, group_norm_gelu


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plain(x, kernel, stride):
    """By XLA itself, without our gradients or options."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=layout
    )


def relative(found, exact):
    found, exact = (np.asarray(x, np.float64) for x in (found, exact))
    return np.abs(found - exact).max() / np.abs(exact).max()


# Maps of the decoder at 448 pixels, and prime sizes: (height, width, in, out, stride). With AMX,
# the kernel's gradient as XLA derives it is off by its own size, without an error.
SHAPES = [
    (32, 32, 64, 64, 1),
    (56, 56, 32, 32, 1),
    (112, 112, 24, 16, 1),
    (224, 224, 8, 8, 1),
    (23, 17, 11, 5, 1),
    (1, 1, 3, 8, 1),
    (98, 98, 8, 16, 2),
    (23, 17, 11, 5, 2),
    (22, 17, 3, 5, 2),
]


@pytest.mark.parametrize(("height", "width", "inputs", "outputs", "stride"), SHAPES)
def test_convolution_and_gradients_as_compiled_for_training(height, width, inputs, outputs, stride):
    """bfloat16 with the compiler's options against float32 without, of the same numbers."""
    x = draw(2, height, width, inputs).astype(jnp.bfloat16)
    kernel = (0.1 * draw(3, 3, inputs, outputs, seed=1)).astype(jnp.bfloat16)

    def value_and_gradients(convolve):
        def function(x, kernel, cotangent):
            y, pull = jax.vjp(lambda *a: convolve(*a, stride), x, kernel)
            return y, *pull(cotangent.astype(y.dtype))

        return function

    shape = jax.eval_shape(lambda *a: plain(*a, stride), x, kernel).shape
    cotangent = draw(*shape, seed=2).astype(jnp.bfloat16)
    options = decoder_compiler_options(jnp.bfloat16)
    ours = jax.jit(value_and_gradients(conv3x3), compiler_options=options)(x, kernel, cotangent)
    exact = [a.astype(jnp.float32) for a in (x, kernel, cotangent)]
    expected = jax.jit(value_and_gradients(plain))(*exact)
    for found, wanted, what in zip(ours, expected, ("output", "of x", "of the kernel")):
        assert found.shape == wanted.shape and found.dtype == jnp.bfloat16
        # Two roundings to 8 bits, at most.
        assert relative(found, wanted) < 0.01, what


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("pixels", [1, 40, 6272])
def test_the_kernels_gradient_does_not_depend_on_the_bands(monkeypatch, pixels, size):
    monkeypatch.setattr(convolution, "PIXELS", pixels)
    x = draw(2, 12, 7, 5)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))) if size == 3 else x
    rows, columns = padded.shape[1] - size + 1, padded.shape[2] - size + 1
    g = draw(2, rows, columns, 3, seed=1)
    by_hand = np.stack(
        [
            [
                np.einsum("brcx,brco->xo", padded[:, i : i + rows, j : j + columns], g)
                for j in range(size)
            ]
            for i in range(size)
        ]
    )
    np.testing.assert_allclose(kernel_gradient(x, g, size), by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("height, width", [(6, 7), (5, 2), (1, 4)])
def test_cells_hold_every_pixel_once_and_unfold_again(height, width):
    x = 1 + draw(2, height, width, 3) ** 2
    cells, unfold = convolution.fold(x)
    assert cells.shape == (2, -(-height // 2) + 1, -(-width // 2) + 1, 12)
    np.testing.assert_array_equal(unfold(cells), x)
    np.testing.assert_array_equal(np.sort(cells[cells > 0]), np.sort(x.ravel()))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_normalised_gelu_is_flaxs(dtype):
    """A mean far from zero, and gradients of all three arguments."""
    x = (3 + draw(2, 11, 7, 24)).astype(dtype)
    scale, bias, cotangent = draw(24, seed=1), draw(24, seed=2), draw(2, 11, 7, 24, seed=3)

    def flax(x, scale, bias):
        norm = nn.GroupNorm(num_groups=3, epsilon=1e-6)
        params = {"params": {"scale": scale, "bias": bias}}
        return nn.gelu(norm.apply(params, x.astype(jnp.float32)))

    y, pull = jax.vjp(group_norm_gelu, x, scale, bias)
    expected, reference = jax.vjp(flax, x, scale, bias)
    assert y.dtype == dtype
    tolerance = 1e-4 if dtype == jnp.float32 else 0.01
    assert relative(y, expected) < tolerance
    for found, wanted in zip(pull(cotangent.astype(dtype)), reference(cotangent)):
        assert found.dtype == wanted.dtype
        assert relative(found, wanted) < tolerance


def test_options_are_for_bfloat16_on_cpus_alone(monkeypatch):
    assert decoder_compiler_options(jnp.float32) == {}
    assert bool(decoder_compiler_options(jnp.bfloat16)) == (jax.__version_info__ >= (0, 12))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert decoder_compiler_options(jnp.bfloat16) == {}


@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_and_float32_are_one_function(stride):
    """The same parameters in both, so that a run can be continued in the other dtype."""
    x = draw(2, 13, 18, 5)
    block = ConvBlock(8, stride)
    params = jax.jit(block.init)(jax.random.key(0), x)
    low = ConvBlock(8, stride, jnp.bfloat16)
    assert jax.tree.structure(params) == jax.tree.structure(
        jax.eval_shape(low.init, jax.random.key(0), x)
    )
    options = decoder_compiler_options(jnp.bfloat16)
    found = jax.jit(low.apply, compiler_options=options)(params, x)
    assert found.shape == (2, -(-13 // stride), -(-18 // stride), 8)
    assert relative(found, block.apply(params, x)) < 0.03
