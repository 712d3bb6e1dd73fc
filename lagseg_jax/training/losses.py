"""The losses: logits (B, H, W), mask (B, H, W) -> one loss per slice (B,).

Per slice, so that the mean over a batch does not depend on how it is spread over devices.
"""

import jax
import jax.numpy as jnp
import optax

from lagseg_jax.runtime.errors import one_of


def bce(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Binary cross-entropy with logits, mean over the pixels of each slice.

    `-mean[y log p + (1 - y) log(1 - p)]` with `p = sigmoid(logits)`.

    Args:
        logits: (B, H, W) float32.
        mask: (B, H, W) with values 0 and 1.

    Returns:
        (B,) float32.
    """
    return optax.sigmoid_binary_cross_entropy(logits, mask).mean(axis=(1, 2))


def soft_dice(logits: jax.Array, mask: jax.Array, smooth: float = 1.0) -> jax.Array:
    """Soft Dice loss of each slice: `1 - (2 sum(p y) + s) / (sum(p) + sum(y) + s)`.

    Milletari et al., V-Net, 2016, with the smoothing term that makes a slice without atrium cost
    nothing when nothing is predicted. Shapes as in `bce`.
    """
    probability = jax.nn.sigmoid(logits)
    overlap = (probability * mask).sum(axis=(1, 2))
    total = probability.sum(axis=(1, 2)) + mask.sum(axis=(1, 2))
    return 1 - (2 * overlap + smooth) / (total + smooth)


LOSSES = {
    "bce": bce,
    "dice": soft_dice,
    "bce+dice": lambda logits, mask: bce(logits, mask) + soft_dice(logits, mask),
}


def slice_losses(name: str, logits: jax.Array, mask: jax.Array) -> jax.Array:
    """The loss `config.train.loss` of each slice, (B,) float32.

    Raises:
        InputError: there is no loss of that name.
    """
    one_of("config.train.loss", name, tuple(LOSSES))
    return LOSSES[name](logits, jnp.asarray(mask, jnp.float32))
