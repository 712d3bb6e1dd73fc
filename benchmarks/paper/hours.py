"""Predicts seconds of a training and of a prediction for three machines, from layers on paper.

Each layer takes the longer of its arithmetic at the peak and its memory traffic at the bandwidth
that the makers state.
"""

import math
from typing import NamedTuple

import ml_collections
import numpy as np

from benchmarks.common import cost
from benchmarks.paper import memory
from lagseg_jax.config.choices import PATCH
from lagseg_jax.inference.slice_search import search
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.training.plan import make_plan

USABLE = 0.75  # of a device's memory: what JAX takes of a GPU by default; elsewhere a margin


class Machine(NamedTuple):
    """`devices` equal ones, as their maker describes one: dense FLOP/s, byte/s, bytes.

    `fused_attention`: whether the scores stay on the chip (cuDNN, see `encoder_form`).
    """

    name: str
    devices: int
    flops: dict[str, float]
    bandwidth: float
    memory: float
    fused_attention: bool


# A TPU multiplies float32 ("highest") in six passes of bfloat16.
MACHINES = (
    Machine("1 x H200", 1, {"bfloat16": 989e12, "float32": 67e12}, 4.8e12, 141e9, True),
    Machine("8 x A100 80 GB", 8, {"bfloat16": 312e12, "float32": 19.5e12}, 2.0e12, 80e9, True),
    Machine("TPU v5e-8", 8, {"bfloat16": 197e12, "float32": 197e12 / 6}, 0.819e12, 16e9, False),
)


def training_step(spec: EncoderSpec, config: ml_collections.ConfigDict, slices: int) -> cost.Work:
    """`cost.forward` with the gradients of the head, and the tokens of all blocks written."""
    encoder, head = cost.forward(spec, config, slices)
    patches = slices * (config.data.image_size // PATCH) ** 2
    kept = cost.Layer("kept tokens", 0, spec.depth * patches * spec.width)
    return cost.Work([*encoder, kept], cost.with_backward(head))


def bounds(
    work: cost.Work,
    spec: EncoderSpec,
    config: ml_collections.ConfigDict,
    machine: Machine,
    slices: int,
) -> list[tuple[float, float]]:
    """Of every layer: seconds of arithmetic at the peak, and of memory at the bandwidth."""
    found, item = [], cost.ITEM_BYTES
    tokens = 1 + spec.registers + (config.data.image_size // PATCH) ** 2
    # Where attention is not fused: float32 scores and rounded weights, written and read.
    scores = 0 if machine.fused_attention else slices * spec.heads * tokens**2
    parts = ((work.encoder, config.encoder.dtype), (work.head, config.decoder.dtype))
    for layers, dtype in parts:
        for layer in layers:
            moved = layer.elements * item[dtype]
            if layer.name == "attention":
                moved += 2 * scores * (4 + item[dtype])
            found.append((layer.flops / machine.flops[dtype], moved / machine.bandwidth))
    return found


def least_seconds(layers: list[tuple[float, float]]) -> float:
    """Every layer takes the longer of its two bounds."""
    return sum(map(max, layers))


def training_seconds(
    config: ml_collections.ConfigDict, training: int, validation: int, step: float, judged: float
) -> float:
    """All steps and validations that `config.train` plans; it may stop earlier (`patience`).

    Args:
        config: the experiment.
        training: training slices.
        validation: validation slices.
        step: seconds of a training step.
        judged: seconds of a batch of the validation.
    """
    plan = make_plan(config.train, training)
    validations = math.ceil(plan.steps / plan.evaluate_every)
    return (
        plan.steps * step + validations * math.ceil(validation / config.train.batch_size) * judged
    )


def predicted_batches(count: int, atrium: float, stride: int, batch: int) -> tuple[int, int]:
    """Slices of a volume that prediction computes, and batches; the last of each round is filled.

    Args:
        count: slices of the volume.
        atrium: fraction of them, in the middle, that show atrium.
        stride: `config.predict.stride`.
        batch: slices at a time, on all devices.
    """
    truth = np.abs(np.arange(count) - (count - 1) / 2) < atrium * count / 2
    rounds: list[int] = []

    def look(numbers: np.ndarray) -> np.ndarray:
        rounds.append(len(numbers))
        return truth[numbers]

    search(look, count, stride, batch, lambda: True)
    return sum(rounds), sum(math.ceil(slices / batch) for slices in rounds)


def fits(parts: dict[str, int], machine: Machine) -> bool:
    """Whether what `memory.training` counts fits into the usable part of a device's memory."""
    return parts["all together"] <= USABLE * machine.memory


def most_slices(
    spec: EncoderSpec, config: ml_collections.ConfigDict, head: int, machine: Machine
) -> int:
    """Slices per device with which training still fits; 0: not even one.

    `head`: number of trained parameters.
    """
    low, high = 0, 1 << 16
    while high - low > 1:
        middle = (low + high) // 2
        parts = memory.training(spec, config, middle, head, machine.fused_attention)
        low, high = (middle, high) if fits(parts, machine) else (low, middle)
    return low
