"""Counts the bytes of device memory that training needs on paper, part by part.

What must be there follows from shapes and dtypes. What the compiler needs besides is counted as the
maps that the forms in `lagseg_jax` keep or hold at once; a test holds it against XLA's own
plan. Letters: B slices, N tokens, D width, L blocks, S scales, C channels.
"""

import functools
import math

import jax
import ml_collections

from benchmarks.common.cost import ITEM_BYTES
from lagseg_jax.config.choices import PATCH
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.model.weights import param_structs


@functools.cache
def encoder_weights(spec: EncoderSpec, dtype: str) -> tuple[int, int]:
    """Frozen parameters: their number, and bytes with kernels in `dtype`."""
    leaves = param_structs(spec, dtype).values()
    return sum(x.size for x in leaves), sum(x.size * x.dtype.itemsize for x in leaves)


def head_parameters(spec: EncoderSpec, config: ml_collections.ConfigDict) -> int:
    """Number of trained parameters."""
    model = build_model(config, spec)
    tree = jax.eval_shape(
        lambda key: model.init_head(key, config.data.image_size), jax.random.key(0)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def encoder_working(
    spec: EncoderSpec, config: ml_collections.ConfigDict, slices: int, fused_attention: bool
) -> int:
    """While a block runs: its weights, the residual stream, and the largest maps alive together.

    Args:
        spec: of the encoder.
        config: image size and dtype.
        slices: B.
        fused_attention: whether the scores (B, heads, N, N) never are in memory.
    """
    item, width = ITEM_BYTES[config.encoder.dtype], spec.width
    tokens = 1 + spec.registers + (config.data.image_size // PATCH) ** 2
    rows, gates = slices * tokens, 2 if spec.mlp == "swiglu" else 1
    # Products of the compute dtype give float32, which is rounded for the next one.
    mlp = rows * spec.hidden * (4 * gates + item)
    attention = rows * 3 * width * (4 + item)
    if not fused_attention:
        scores = slices * spec.heads * tokens**2 * (4 + item)
        attention = max(attention, rows * 3 * width * item + scores)
    block = (4 * width**2 + (gates + 1) * width * spec.hidden) * item
    return block + rows * width * 4 + max(mlp, attention)


def update_working(spec: EncoderSpec, config: ml_collections.ConfigDict, slices: int) -> dict:
    """While fusion and decoder run forwards and backwards: bytes by part."""
    options, size = config.decoder, config.data.image_size
    item = ITEM_BYTES[config.encoder.dtype]
    patches = slices * (size // PATCH) ** 2 * spec.width
    sides = [size // PATCH, *(math.ceil(size / s) for s in options.scales)]
    maps = [slices * side**2 * width for side, width in zip(sides, options.widths)]
    # Of each scale: what the join gives, two convolutions and two normalisations.
    kept = 5 * sum(maps)
    if options.image_injection and options.image_path == "pyramid":
        kept += 4 * sum(maps[1:])
    # GroupNorm's gradient at the finest scale (float32), and image, mask, logits and theirs.
    gradient = 4 * 4 * maps[-1] + 6 * 4 * slices * size**2
    return {
        "fused tokens": len(options.widths) * patches * (4 if item == 4 else 4 + item),
        "decoder": kept * ITEM_BYTES[options.dtype] + gradient,
    }


def training(
    spec: EncoderSpec,
    config: ml_collections.ConfigDict,
    slices: int,
    head: int,
    fused_attention: bool,
) -> dict[str, int]:
    """Bytes of one device that trains on so many slices at a time.

    Args:
        spec: of the encoder.
        config: the experiment.
        slices: B, of this device.
        head: number of trained parameters.
        fused_attention: as in `encoder_working`.

    Returns:
        {part: bytes}; "all together" is the sum of the others but for the smaller of encoder and
        update, which never run at the same time.
    """
    item, size = ITEM_BYTES[config.encoder.dtype], config.data.image_size
    resident = {
        "encoder weights": encoder_weights(spec, config.encoder.dtype)[1],
        # Parameters, two moments, gradient and update, all float32.
        "head, gradient and Adam": 5 * 4 * head,
        # The next step is encoded while this one's update waits to be finished.
        "tokens of all blocks, two steps": 2
        * (spec.depth * slices * (size // PATCH) ** 2 * spec.width * item),
    }
    working = {
        "encoder at work": encoder_working(spec, config, slices, fused_attention),
        "update at work": sum(update_working(spec, config, slices).values()),
    }
    total = sum(resident.values()) + max(working.values())
    return resident | working | {"all together": total}
