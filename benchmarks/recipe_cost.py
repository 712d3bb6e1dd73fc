"""config, numbers of slices -> hours and memory of its training, predicted for three machines.

    python -m benchmarks.recipe_cost --config=configs/giant.py

Nothing is measured: FLOPs and bytes are counted on paper (`cost`, `memory`) and divided by what the
makers state of their devices. Each layer takes the longer of arithmetic and memory; the time so
found, the least, is divided by `--fraction`, the part of it that software reaches. Its default is
near the 48 % that the training step of ViT-g reached on an H200 (docs/performance.md); of other
accelerators it is an assumption. Left out: augmentation, the optimiser, the exchange of gradients,
compiling, reading the files, and the evaluation at the end.
"""

import math
import sys
from typing import NamedTuple

import ml_collections
import numpy as np
from absl import flags

from benchmarks import cost, memory
from lagseg_jax.config.choices import PATCH
from lagseg_jax.config.flags import parse_flags
from lagseg_jax.config.validate import check_batch_size, check_config
from lagseg_jax.inference.slice_search import search
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import InputError
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


class Work(NamedTuple):
    """Layers of the encoder and of the head, for one device."""

    encoder: list[cost.Layer]
    head: list[cost.Layer]

    def flops(self) -> int:
        """Sum over both."""
        return sum(layer.flops for layer in [*self.encoder, *self.head])


def forward(spec: EncoderSpec, config: ml_collections.ConfigDict, slices: int) -> Work:
    """Images -> logits, as in validation and prediction."""
    size, options = config.data.image_size, config.decoder
    shape = (tuple(options.scales), tuple(options.widths), options.image_path)
    fusion = cost.fusion(spec, slices, size, len(options.widths))
    head = [fusion, *cost.decoder(spec.width, slices, size, *shape)]
    return Work(cost.encoder(spec, slices, size), head)


def training_step(spec: EncoderSpec, config: ml_collections.ConfigDict, slices: int) -> Work:
    """The same with the gradients of the head, and the tokens of all blocks written."""
    encoder, head = forward(spec, config, slices)
    patches = slices * (config.data.image_size // PATCH) ** 2
    kept = cost.Layer("kept tokens", 0, spec.depth * patches * spec.width)
    return Work([*encoder, kept], cost.with_backward(head))


def bounds(
    work: Work, spec: EncoderSpec, config: ml_collections.ConfigDict, machine: Machine, slices: int
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
    shows, slices, batches = np.zeros(count, bool), 0, 0
    for numbers in search(shows, stride, batch):
        shows[numbers] = truth[numbers]
        slices, batches = slices + len(numbers), batches + math.ceil(len(numbers) / batch)
    return slices, batches


def most_slices(
    spec: EncoderSpec, config: ml_collections.ConfigDict, head: int, machine: Machine
) -> int:
    """Slices per device with which training still fits; 0: not even one."""
    low, high = 0, 1 << 16
    while high - low > 1:
        middle = (low + high) // 2
        parts = memory.training(spec, config, middle, head, machine.fused_attention)
        fits = parts["all together"] <= USABLE * machine.memory
        low, high = (middle, high) if fits else (low, middle)
    return low


def column(
    config: ml_collections.ConfigDict, machine: Machine, head: int, options: flags.FlagValues
) -> dict[str, str]:
    """{row: cell} of one machine."""
    check_batch_size("config.train.batch_size", config.train.batch_size, machine.devices)
    spec = EncoderSpec(config.encoder.variant, config.encoder.registers)
    slices, at_once = config.train.batch_size // machine.devices, config.predict.batch_size

    def of(work: Work, count: int) -> list[tuple[float, float]]:
        return bounds(work, spec, config, machine, count)

    layers = of(training_step(spec, config, slices), slices)
    step, judged = least_seconds(layers), least_seconds(of(forward(spec, config, slices), slices))
    counts = options.training_slices, options.validation_slices
    least = training_seconds(config, *counts, step, judged)
    stride = config.predict.stride if config.predict.components == 1 else 1
    computed, batches = predicted_batches(
        options.volume_slices, options.atrium, stride, at_once * machine.devices
    )
    volume = batches * least_seconds(of(forward(spec, config, at_once), at_once))
    arithmetic, moving = map(sum, zip(*layers))
    parts = memory.training(spec, config, slices, head, machine.fused_attention)
    fits = parts["all together"] <= USABLE * machine.memory
    return {
        "slices per device and step": f"{slices}",
        "arithmetic of a step at the peak": f"{1e3 * arithmetic:.1f} ms",
        "memory traffic of a step at the bandwidth": f"{1e3 * moving:.1f} ms",
        "step, the longer of both layer by layer": f"{1e3 * step:.1f} ms",
        f"step at {options.fraction:.0%} of this speed": f"{1e3 * step / options.fraction:.0f} ms",
        "least hours of the training": f"{least / 3600:.2f}",
        f"**hours at {options.fraction:.0%}**": f"**{least / options.fraction / 3600:.2f}**",
        f"slices computed of a volume of {options.volume_slices}": f"{computed}",
        f"this volume at {options.fraction:.0%}": f"{volume / options.fraction:.2f} s",
        **{f"memory: {name}": f"{size / 1e9:.2f} GB" for name, size in parts.items()},
        f"fits into {USABLE:.0%} of the memory": (
            f"{'yes' if fits else 'no'} ({USABLE * machine.memory / 1e9:.1f} GB)"
        ),
        "most slices per device that fit": f"{most_slices(spec, config, head, machine)}",
    }


def report(config: ml_collections.ConfigDict, options: flags.FlagValues) -> str:
    """The prediction as Markdown."""
    spec = EncoderSpec(config.encoder.variant, config.encoder.registers)
    head = memory.head_parameters(spec, config)
    plan = make_plan(config.train, options.training_slices)
    encoder, decoder = forward(spec, config, 1)
    trained = training_step(spec, config, 1)
    frozen = memory.encoder_weights(spec, config.encoder.dtype)[0]
    giga = [sum(layer.flops for layer in part) / 1e9 for part in (encoder, decoder, trained.head)]
    columns = [column(config, machine, head, options) for machine in MACHINES]
    lines = [
        f"Predicted, not measured: {config.encoder.variant} encoder, {config.data.image_size} "
        f"pixels, {config.encoder.dtype}, batch {config.train.batch_size}.",
        "",
        f"- parameters: {frozen / 1e6:.1f} M frozen, {head / 1e6:.2f} M trained",
        f"- GFLOP per slice: encoder {giga[0]:.1f}, decoder {giga[1]:.1f}, decoder with gradients "
        f"{giga[2]:.1f}",
        f"- TFLOP per step: {config.train.batch_size * trained.flops() / 1e12:.3g}; {plan.steps} "
        f"steps, validation every {plan.evaluate_every}",
        f"- slices: {options.training_slices} to train, {options.validation_slices} to validate",
        "",
        f"| memory is of one device | {' | '.join(m.name for m in MACHINES)} |",
        f"|---|{'---|' * len(MACHINES)}",
    ]
    lines += [f"| {row} | {' | '.join(c[row] for c in columns)} |" for row in columns[0]]
    return "\n".join(lines)


def define_flags(values: flags.FlagValues) -> None:
    """The flags of this command, apart from `config`; nothing is written, so no `workdir`."""
    delattr(values, "workdir")
    # LAScarQS 2022, task 2: 7040 slices in 130 labelled volumes, 70 and 10 % of them.
    flags.DEFINE_integer("training_slices", 4928, "To train.", 1, flag_values=values)
    flags.DEFINE_integer("validation_slices", 704, "To validate.", 1, flag_values=values)
    flags.DEFINE_integer("volume_slices", 44, "Of a volume to predict.", 1, flag_values=values)
    about = "Fraction of the volume's slices that show atrium."
    flags.DEFINE_float("atrium", 0.67, about, 0.0, 1.0, flag_values=values)
    about = "Of the roofline's speed that is reached: near what an H200 reached."
    flags.DEFINE_float("fraction", 0.5, about, 0.01, 1.0, flag_values=values)


def main(arguments: list[str] | None = None) -> int:
    """Prints the prediction."""
    given = sys.argv if arguments is None else ["recipe_cost", *arguments]
    values = parse_flags(given, define_flags)
    if values.help:
        print(f"{__doc__}\n{values.main_module_help() or values.get_help()}")
        return 0
    if values.config is None:
        raise InputError("--config is needed, e.g. --config=configs/giant.py")
    values.config.data.root = values.config.data.root or "not read"
    check_config(values.config)
    if values.config.decoder.dtype == "auto":
        values.config.decoder.dtype = "bfloat16"  # what it means on these machines
    print(report(values.config, values))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
