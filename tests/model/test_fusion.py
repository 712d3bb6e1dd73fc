"""Fusion: softmax weights over the chosen blocks of each scale, and the sum that they weigh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lagseg_jax.model.fusion import FusionWeights, fuse

SCALES, DEPTH = 3, 7
BLOCKS = (1, 4, 6)


def weights_of(theta, blocks=BLOCKS):
    module = FusionWeights(SCALES, DEPTH, blocks)
    return module.apply({"params": {"theta": jnp.asarray(theta)}})


def tokens_of(dtype=np.float32):
    tokens = np.random.default_rng(0).normal(size=(DEPTH, 2, 3, 5, 11))
    return jnp.asarray(tokens, dtype)


@pytest.mark.parametrize("blocks", [tuple(range(DEPTH)), (DEPTH - 1,), BLOCKS])
def test_weights_start_equal_over_the_chosen_blocks(blocks):
    module = FusionWeights(SCALES, DEPTH, blocks)
    weights, variables = module.init_with_output(jax.random.key(0))
    assert variables["params"]["theta"].shape == (SCALES, len(blocks))
    expected = np.zeros((SCALES, DEPTH))
    expected[:, list(blocks)] = 1 / len(blocks)
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_weights_are_a_softmax_for_each_scale():
    theta = np.random.default_rng(1).normal(scale=3, size=(SCALES, len(BLOCKS)))
    weights = np.asarray(weights_of(theta))
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    others = [block for block in range(DEPTH) if block not in BLOCKS]
    assert (weights[:, others] == 0).all()
    for s in range(SCALES):
        expected = np.exp(theta[s]) / np.exp(theta[s]).sum()
        np.testing.assert_allclose(weights[s, list(BLOCKS)], expected, rtol=1e-5)


def test_fixed_weights_have_no_parameters():
    module = FusionWeights(SCALES, DEPTH, BLOCKS, learned=False)
    weights, variables = module.init_with_output(jax.random.key(0))
    assert not variables
    np.testing.assert_array_equal(weights, weights_of(np.zeros((SCALES, len(BLOCKS)))))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (jnp.bfloat16, 0.02)])
def test_fuse_equals_a_loop(dtype, tolerance):
    tokens = tokens_of(dtype)
    weights = np.random.default_rng(1).dirichlet(np.ones(DEPTH), SCALES).astype(np.float32)
    fused = fuse(tokens, jnp.asarray(weights))
    assert fused.shape == (SCALES, 2, 3, 5, 11) and fused.dtype == dtype
    for s in range(SCALES):
        expected = sum(weights[s, block] * np.float64(tokens[block]) for block in range(DEPTH))
        np.testing.assert_allclose(np.float64(fused[s]), expected, atol=tolerance)


def test_gradient_of_theta_matches_finite_differences():
    target = jnp.asarray(np.random.default_rng(2).normal(size=(SCALES, 2, 3, 5, 11)), np.float32)

    tokens = tokens_of()

    @jax.jit
    def loss(theta):
        return jnp.mean((fuse(tokens, weights_of(theta)) - target) ** 2)

    theta = jnp.asarray(np.random.default_rng(1).normal(size=(SCALES, len(BLOCKS))), np.float32)
    assert np.abs(jax.grad(loss)(theta)).min() > 1e-4
    check_grads(loss, (theta,), order=1, modes=["rev"], eps=1e-2, rtol=1e-2)


def test_gradients_in_bfloat16_are_summed_in_float32_without_a_copy_of_the_tokens():
    draw = np.random.default_rng(3).normal
    tokens = jnp.asarray(draw(size=(DEPTH, 2, 29, 31, 37)), jnp.bfloat16)
    gradient = jnp.asarray(draw(size=(SCALES, 2, 29, 31, 37)), jnp.bfloat16)
    weights = jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(DEPTH), SCALES), jnp.float32)

    def of_weights(weights, tokens, gradient):
        return jax.vjp(lambda weights: fuse(tokens, weights), weights)[1](gradient)[0]

    compiled = jax.jit(of_weights).lower(weights, tokens, gradient).compile()
    wide = np.float64(gradient), np.float64(tokens)
    expected = np.einsum("sbhwd,lbhwd->sl", *wide)
    np.testing.assert_allclose(compiled(weights, tokens, gradient), expected, atol=0.01)
    assert np.abs(expected).max() > 100  # so that its rounding to bfloat16 would be seen
    assert compiled.memory_analysis().temp_size_in_bytes < tokens.nbytes

    of_tokens = jax.vjp(lambda tokens: fuse(tokens, weights), tokens)[1](gradient)[0]
    expected = np.einsum("sl,sbhwd->lbhwd", np.float64(weights), wide[0])
    np.testing.assert_allclose(np.float64(of_tokens), expected, atol=0.03)
