"""Says which parameters a model trains and of which shapes, written out instead of asked of Flax.

Flax would trace the whole decoder for them at every start (docs/log/2026-11-28-start.md). The
letters of shapes are those of docs/architecture.md.
"""

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from lagseg_jax.model.decoder import Decoder
from lagseg_jax.model.fusion import FusionWeights
from lagseg_jax.model.lora import LORA
from lagseg_jax.model.segmentation import Model

Shapes = dict[str, tuple[int, ...]]  # by name, joined with "/"


def trained_structs(model: Model, adapter: bool = True) -> dict:
    """Shape and dtype of all that `Model.init_params` makes, as its tree; all float32.

    Args:
        model: encoder, head, and adapter if there is one.
        adapter: False leaves that out, as `Model.init_head` does.
    """
    width = model.encoder.spec.width
    head = {"fusion": _fusion(model.head.fusion), "decoder": _decoder(model.head.decoder, width)}
    shapes = {f"{part}/{name}": shape for part in head for name, shape in head[part].items()}
    if adapter and model.adapter is not None:
        rank, blocks = model.adapter.rank, model.adapter.blocks
        shapes |= {f"{LORA}/a": (blocks, width, rank), f"{LORA}/b": (blocks, rank, 3 * width)}
    structs = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    return unflatten_dict(structs, sep="/")


def _fusion(fusion: FusionWeights) -> Shapes:
    return {"theta": (fusion.scales, len(fusion.blocks))} if fusion.learned else {}


def _decoder(decoder: Decoder, width: int) -> Shapes:
    """Of a decoder of tokens (S, B, h, w, width) and grey images."""
    widths, shapes = decoder.widths, Shapes()
    views = [0] * len(widths)  # channels of the image at 1/14 and at each scale
    if decoder.image_injection:
        pyramid = decoder.image_path == "pyramid"
        views = [widths[1], *widths[1:]] if pyramid else [1] * len(widths)
        shapes = _pyramid(decoder) if pyramid else {}
    for s, (channels, before, view) in enumerate(zip(widths, (0, *widths), views)):
        shapes |= _linear(f"project_{s}", width, channels)
        shapes |= _linear(f"join_{s}", channels + before + view, channels)
        shapes |= _block(f"block_{s}", channels, channels)
    return shapes | _linear("logits", widths[-1], decoder.scales[-1] ** 2)


def _pyramid(decoder: Decoder) -> Shapes:
    """From the finest scale, which sees the pixels of one of its own as channels, to the others."""
    inputs, shapes = decoder.scales[-1] ** 2, Shapes()
    for number, channels in enumerate(reversed(decoder.widths[1:])):
        shapes |= _block(f"pyramid/ConvBlock_{number}", inputs, channels)
        inputs = channels
    return shapes


def _block(name: str, inputs: int, outputs: int) -> Shapes:
    """Of a `ConvBlock`."""
    shapes: Shapes = {}
    for number, channels in enumerate((inputs, outputs)):
        shapes[f"{name}/Conv_{number}/kernel"] = (3, 3, channels, outputs)
        for kind in ("scale", "bias"):
            shapes[f"{name}/GroupNorm_{number}/{kind}"] = (outputs,)
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}
