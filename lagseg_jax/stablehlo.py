"""trained model -> its inference function, grey slices to probability, as portable StableHLO."""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from lagseg_jax.inference import decode, encode
from lagseg_jax.segmenter import Segmenter

PLATFORMS = ("cpu", "cuda", "tpu")


def flat_weights(segmenter: Segmenter) -> dict[str, jax.Array]:
    """The parameters of encoder and head under names such as `encoder/norm/scale`."""
    tree = {"encoder": segmenter.encoder.params, "head": segmenter.head_params}
    return flatten_dict(tree, sep="/")


def export_function(segmenter: Segmenter) -> jax.export.Exported:
    """The inference function for every slice size, compiled by JAX where and when it is called.

    It takes `weights`, those of `flat_weights`; `slices` (b, h, w) float32, grey values as stored,
    rows from anterior to posterior, columns from the patient's right to his left; and `grey` (2,)
    float32, the values that become 0 and 1. It returns the probability (b, h, w), float32.
    """
    image_size = segmenter.config.data.image_size
    # The other forms are for one platform only.
    encoder = segmenter.model.encoder.clone(form="plain")
    model = dataclasses.replace(segmenter.model, encoder=encoder)

    def predict(weights, slices, grey):
        params = unflatten_dict(weights, sep="/")
        _, height, width = slices.shape
        there, back = traced_matrices(height, width, image_size)
        head = params["head"]
        images, fused = encode(model, params["encoder"], head, slices, there, grey, None)
        return decode(model, head, images, fused, back, None)

    weights = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in flat_weights(segmenter).items()
    }
    slices = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, h, w"), jnp.float32)
    grey = jax.ShapeDtypeStruct((2,), jnp.float32)
    return jax.export.export(jax.jit(predict), platforms=PLATFORMS)(weights, slices, grey)


def traced_matrices(height, width, image_size: int) -> tuple[list, list]:
    """`slices.resize_matrices` and `restore_matrices` in JAX, for sizes known only when called.

    The triangle kernel of `interpolation.linear_matrix` from n to m pixels has, at output pixel i
    and input pixel p, the height `1 - |(2 p + 1) m - (2 i + 1) n| / (2 max(m, n))`: integers until
    the division, so that float32 is enough.
    """

    def kernel(outputs, inputs, m, n):
        distance = jnp.abs((2 * inputs[None] + 1) * m - (2 * outputs[:, None] + 1) * n)
        return jnp.maximum(0, 1 - distance / (2 * jnp.maximum(m, n)))

    pixels = jnp.arange(image_size)
    side = jnp.maximum(height, width)
    there, back = [], []
    for length in (height, width):
        window = (side - length) // 2 + jnp.arange(length)  # of the slice in its square
        # The square's own pixels are not an array of known shape: more of them, and a condition.
        square = jnp.arange(height + width)
        weights = jnp.where(square < side, kernel(pixels, square, image_size, side), 0)
        rows = kernel(pixels, window, image_size, side) / weights.sum(1, keepdims=True)
        there.append(rows)
        rows = kernel(window, pixels, side, image_size)
        back.append(rows / rows.sum(1, keepdims=True))
    return there, back
