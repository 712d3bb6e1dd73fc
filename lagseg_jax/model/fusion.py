"""Learnable fusion: for every decoder scale a weighted sum of the tokens of all encoder blocks.

For scale s the fused map is `F_s = sum_l a[s, l] f_l` with `a[s] = softmax(theta[s])` over the
chosen blocks (arXiv 2502.06615). They start equal. The letters are those of docs/architecture.md.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class FusionWeights(nn.Module):
    """The learnable weights of every block for every scale.

    Attributes:
        scales: S.
        depth: L.
        blocks: the blocks that take part; the others have weight 0.
        learned: False keeps the weights equal (an ablation), without parameters.
    """

    scales: int
    depth: int
    blocks: tuple[int, ...]
    learned: bool = True

    @nn.compact
    def __call__(self) -> jax.Array:
        """Returns the weights (S, L), float32, each row summing to 1."""
        shape = (self.scales, len(self.blocks))
        theta = jnp.zeros(shape)
        if self.learned:
            theta = self.param("theta", nn.initializers.zeros, shape)
        weights = jax.nn.softmax(theta, axis=-1)
        return jnp.zeros((self.scales, self.depth)).at[:, jnp.array(self.blocks)].set(weights)


def fuse(patch_tokens: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted sum over the blocks, accumulated in float32.

    Args:
        patch_tokens: (L, B, h, w, D).
        weights: (S, L).

    Returns:
        (S, B, h, w, D) in the dtype of `patch_tokens`.
    """
    flat = patch_tokens.reshape(patch_tokens.shape[0], -1)
    return _weighted_sum(weights, flat).reshape(-1, *patch_tokens.shape[1:])


@jax.custom_vjp
def _weighted_sum(weights: jax.Array, flat: jax.Array) -> jax.Array:
    """One matrix product, (S, L) @ (L, N), of inputs in the dtype of `flat` (L, N).

    JAX's own gradient would convert `flat` to float32: twice the memory of all tokens again.
    """
    product = jnp.dot(weights.astype(flat.dtype), flat, preferred_element_type=jnp.float32)
    return product.astype(flat.dtype)


def _weighted_sum_forward(weights: jax.Array, flat: jax.Array) -> tuple:
    return _weighted_sum(weights, flat), (weights, flat)


def _weighted_sum_backward(kept: tuple, gradient: jax.Array) -> tuple:
    weights, flat = kept
    of_weights = jax.lax.dot_general(
        gradient, flat, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    return of_weights, _weighted_sum(weights.T, gradient)


_weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward)
