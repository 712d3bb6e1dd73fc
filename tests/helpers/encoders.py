"""Encoders for the tests: parameters that are not the identity, and images."""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from lagseg_jax.model.weights import random_params


def draw_params(spec):
    """Random, with norms, biases and layer scales that are not the identity."""
    leaves, tree = jax.tree.flatten(random_params(spec, 0, "float32"))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)])


def bfloat16_kernels(params):
    flat = flatten_dict(params)
    cast = {k: x.astype(jnp.bfloat16) if k[-1] == "kernel" else x for k, x in flat.items()}
    return unflatten_dict(cast)


def images(batch, height, width, seed=2):
    return jax.random.normal(jax.random.key(seed), (batch, height, width, 3))
