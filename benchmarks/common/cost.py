"""Counts FLOPs and bytes of the model on paper, layer by layer.

A multiplication and an addition are 2 FLOPs. Only matrix products and convolutions count:
normalisation, GELU, softmax and resizing are left out, however they are implemented. Bytes are the
least that a layer can move: weights, input and output once each, in the compute dtype; what lies
between two layers is taken to be fused into them, and attention scores never to leave the chip.
Letters: B batch, N tokens, D width, L blocks, S scales, C channels.
"""

import math
from typing import NamedTuple

import ml_collections

from lagseg_jax.config.choices import PATCH
from lagseg_jax.model.encoder import EncoderSpec

ITEM_BYTES = {"bfloat16": 2, "float32": 4}


class Layer(NamedTuple):
    """One matrix product or convolution, forward.

    `backward` is how many products of the same size its gradients take: 2 (input and weights),
    1 (weights alone, where the input is an image or frozen), or 0 for a frozen layer.
    """

    name: str
    flops: int
    elements: int
    backward: int = 0


def dense(name: str, rows: int, inputs: int, outputs: int, backward: int = 0) -> Layer:
    """(rows, inputs) @ (inputs, outputs)."""
    elements = rows * inputs + inputs * outputs + rows * outputs
    return Layer(name, 2 * rows * inputs * outputs, elements, backward)


def conv3x3(
    name: str, pixels: int, inputs: int, outputs: int, backward: int = 2, stride: int = 1
) -> Layer:
    """`pixels` of the output; padding counts as if it were image."""
    elements = pixels * inputs * stride**2 + 9 * inputs * outputs + pixels * outputs
    return Layer(name, 2 * 9 * pixels * inputs * outputs, elements, backward)


def encoder(spec: EncoderSpec, batch: int, size: int) -> list[Layer]:
    """The frozen encoder on square images of `size` pixels, all blocks."""
    patches, width = (size // PATCH) ** 2, spec.width
    tokens = 1 + spec.registers + patches
    rows = batch * tokens
    gates = 2 if spec.mlp == "swiglu" else 1
    attention = Layer("attention", 4 * batch * tokens**2 * width, 4 * rows * width)
    block = [
        dense("qkv", rows, width, 3 * width),
        attention,
        dense("proj", rows, width, width),
        dense("fc1", rows, width, gates * spec.hidden),
        dense("fc2", rows, spec.hidden, width),
    ]
    embedding = dense("patch_embedding", batch * patches, PATCH * PATCH * 3, width)
    return [embedding, *block * spec.depth]


def fusion(spec: EncoderSpec, batch: int, size: int, scales: int) -> Layer:
    """Weights (S, L) times the tokens (L, B h w D) of all blocks."""
    return dense("fusion", scales, spec.depth, batch * (size // PATCH) ** 2 * spec.width, 1)


def decoder(
    width: int, batch: int, size: int, scales: tuple, widths: tuple, image_path: str
) -> list[Layer]:
    """The decoder with image injection, and the pyramid if the config has one."""
    sides = [size // PATCH, *(math.ceil(size / s) for s in scales)]
    pixels = [batch * side**2 for side in sides]
    image_channels, layers = [1] * len(sides), []
    if image_path == "pyramid":
        layers += pyramid(pixels[1:], scales, widths[1:])
        image_channels = [widths[1], *widths[1:]]
    before = 0
    for s, channels in enumerate(widths):
        layers.append(dense(f"project_{s}", pixels[0], width, channels, 2))
        # Before they are resized, as Join does it: tokens, state, image.
        joined = [(pixels[0], channels), (pixels[s - 1], before), (pixels[s], image_channels[s])]
        layers += [dense(f"join_{s}", n, inputs, channels, 2) for n, inputs in joined if inputs]
        layers += [conv3x3(f"block_{s}", pixels[s], channels, channels)] * 2
        before = channels
    return [*layers, dense("logits", pixels[-1], widths[-1], scales[-1] ** 2, 2)]


def pyramid(pixels: list[int], scales: tuple, widths: tuple) -> list[Layer]:
    """The learned stem, fine to coarse."""
    first, *coarser = zip(pixels[::-1], widths[::-1])
    layers = [
        conv3x3("pyramid", first[0], scales[-1] ** 2, first[1], 1),
        conv3x3("pyramid", *first, first[1]),
    ]
    inputs = first[1]
    for count, channels in coarser:
        layers.append(conv3x3("pyramid", count, inputs, channels, stride=2))
        layers.append(conv3x3("pyramid", count, channels, channels))
        inputs = channels
    return layers


def with_backward(layers: list[Layer]) -> list[Layer]:
    """Forward and gradients."""
    return [copy for layer in layers for copy in [layer] * (1 + layer.backward)]


class Work(NamedTuple):
    """Layers of the encoder and of the head."""

    encoder: list[Layer]
    head: list[Layer]

    def flops(self) -> int:
        """Sum over both."""
        return sum(layer.flops for layer in [*self.encoder, *self.head])


def forward(spec: EncoderSpec, config: ml_collections.ConfigDict, slices: int) -> Work:
    """Images -> logits, as in validation and prediction; fusion is the first layer of the head."""
    size, options = config.data.image_size, config.decoder
    shape = (tuple(options.scales), tuple(options.widths), options.image_path)
    fused = fusion(spec, slices, size, len(options.widths))
    return Work(encoder(spec, slices, size), [fused, *decoder(spec.width, slices, size, *shape)])


def rows(spec: EncoderSpec, config: ml_collections.ConfigDict, slices: int) -> dict[str, dict]:
    """{row: {"flops", "bytes", "layers": [(flops, bytes), ...]}} of everything that is timed."""
    frozen, head = forward(spec, config, config.train.batch_size)
    trained = with_backward(head)
    volume = forward(spec, config, slices)
    items = {
        "encoder": frozen,
        "fused encoder": [*frozen, head[0]],
        "head forward": head,
        "head forward+backward": trained,
        "train step": frozen + trained,
        "augmented train step": frozen + trained,
        "volume": volume.encoder + volume.head,
        "volume from file": volume.encoder + volume.head,
    }
    return {
        row: _summary(layers, ITEM_BYTES[config.encoder.dtype]) for row, layers in items.items()
    }


def _summary(layers: list[Layer], item: int) -> dict:
    """Sums, and what a roofline needs."""
    pairs = [(layer.flops, layer.elements * item) for layer in layers]
    flops, moved = map(sum, zip(*pairs))
    return {"flops": flops, "bytes": moved, "layers": pairs}
