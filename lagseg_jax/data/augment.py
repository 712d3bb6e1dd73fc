"""Transforms images and their masks at random, on the device.

Each slice has a key of its own, made from the step and the slice's number, so the result depends
neither on the number of devices nor on restarts.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Strength of every transformation, as in `config.augment`; 0 switches one off."""

    rotation_degrees: float
    scale: float
    translation: float
    gamma: float
    contrast: float
    brightness: float
    noise: float
    bias_field: float


def slice_keys(seed: int, step: jax.Array, slices: jax.Array) -> jax.Array:
    """One key for each slice number (B,) at this step: (B,) typed keys."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(slices)


def augment(
    strength: Augmentation, keys: jax.Array, images: jax.Array, masks: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Transforms every slice with its own key.

    Args:
        strength: how much.
        keys: (B,) typed keys.
        images: (B, E, E) float32 in 0..1.
        masks: (B, E, E) with values 0 and 1.

    Returns:
        Images (B, E, E) float32 in 0..1, masks (B, E, E) float32 of 0 and 1.
    """
    return jax.vmap(lambda k, i, m: _augment_slice(strength, k, i, m))(keys, images, masks)


def _augment_slice(
    strength: Augmentation, key: jax.Array, image: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    move, curve, factor, light, noise, field = jax.random.split(key, 6)
    mask = mask.astype(jnp.float32)
    if strength.rotation_degrees or strength.scale or strength.translation:
        coordinates = list(_affine_coordinates(strength, move, image.shape[0]))
        image = map_coordinates(image, coordinates, order=1, mode="constant")
        mask = jnp.round(map_coordinates(mask, coordinates, order=1, mode="constant"))
    if strength.bias_field:
        image = image * jnp.exp(strength.bias_field * _smooth_field(field, image.shape[0]))
    if strength.gamma:
        exponent = jnp.exp(strength.gamma * _uniform(curve))
        # The gradient of x ** a at 0 is never needed, but its value must not be NaN.
        image = jnp.maximum(image, 1e-6) ** exponent
    if strength.contrast:
        image = image * jnp.exp(strength.contrast * _uniform(factor))
    if strength.brightness:
        image = image + strength.brightness * _uniform(light)
    if strength.noise:
        level, pixels = jax.random.split(noise)
        deviation = strength.noise * jax.random.uniform(level)
        image = image + deviation * jax.random.normal(pixels, image.shape)
    return jnp.clip(image, 0, 1), mask


def _uniform(key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1, maxval=1)


def _affine_coordinates(strength: Augmentation, key: jax.Array, size: int) -> jax.Array:
    """Where each output pixel is read in the input: (2, E, E), about the image centre."""
    turn, zoom, shift = jax.random.split(key, 3)
    angle = jnp.deg2rad(strength.rotation_degrees) * _uniform(turn)
    factor = jnp.exp(jnp.log1p(strength.scale) * _uniform(zoom))
    offset = strength.translation * size * _uniform(shift, (2, 1, 1))
    centre = (size - 1) / 2
    row, column = jnp.meshgrid(*2 * [jnp.arange(size) - centre], indexing="ij")
    cos, sin = jnp.cos(angle) / factor, jnp.sin(angle) / factor
    rotated = jnp.stack([cos * row - sin * column, sin * row + cos * column])
    return rotated + offset + centre


def _smooth_field(key: jax.Array, size: int) -> jax.Array:
    """A field (E, E) within -1..1: a random mixture of the lowest cosines of both axes."""
    mixture = _uniform(key, (3, 3)) / 3
    x = jnp.linspace(0, jnp.pi, size)
    cosines = jnp.cos(jnp.arange(3)[:, None] * x)  # (3, E)
    return jnp.clip(cosines.T @ mixture @ cosines, -1, 1)
