"""Predicts hours and memory of a config's training for three machines.

    python -m benchmarks.recipe_cost --config=configs/giant.py

Nothing is measured: FLOPs and bytes are counted on paper (`common/cost.py`, `paper/memory.py`) and
divided by what the makers state of their devices (`paper/hours.py`). Each layer takes the longer of
arithmetic and memory; the time so found, the least, is divided by `--fraction`, the part of it that
software reaches. Its default is near the 48 % that the training step of ViT-g reached on an H200
(docs/performance.md); of other accelerators it is an assumption. Left out: augmentation, the
optimiser, the exchange of gradients, compiling, reading the files, and the evaluation at the end.
"""

import sys
from collections.abc import Callable

import ml_collections
from absl import flags

from benchmarks.common.cost import Work, forward
from benchmarks.paper import hours, memory
from lagseg_jax.config.flags import parse_flags
from lagseg_jax.config.validate import check_batch_size, check_config
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.training.plan import make_plan


def column(
    config: ml_collections.ConfigDict, machine: hours.Machine, head: int, options: flags.FlagValues
) -> dict[str, str]:
    """{row: cell} of one machine."""
    check_batch_size(config.train.batch_size, machine.devices)
    spec = EncoderSpec(config.encoder.variant, config.encoder.registers)
    slices, at_once = config.train.batch_size // machine.devices, config.predict.batch_size

    def bounds(work: Callable[..., Work], count: int) -> list[tuple[float, float]]:
        return hours.bounds(work(spec, config, count), spec, config, machine, count)

    layers = bounds(hours.training_step, slices)
    step = hours.least_seconds(layers)
    judged = hours.least_seconds(bounds(forward, slices))
    counts = options.training_slices, options.validation_slices
    least = hours.training_seconds(config, *counts, step, judged)
    stride = config.predict.stride or 1  # 0: on accelerators, which all of these are, it is 1
    stride = stride if config.predict.components == 1 else 1
    computed, batches = hours.predicted_batches(
        options.volume_slices, options.atrium, stride, at_once * machine.devices
    )
    volume = batches * hours.least_seconds(bounds(forward, at_once))
    arithmetic, moving = map(sum, zip(*layers))
    parts = memory.training(spec, config, slices, head, machine.fused_attention)
    fits = "yes" if hours.fits(parts, machine) else "no"
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
        f"fits into {hours.USABLE:.0%} of the memory": (
            f"{fits} ({hours.USABLE * machine.memory / 1e9:.1f} GB)"
        ),
        "most slices per device that fit": f"{hours.most_slices(spec, config, head, machine)}",
    }


def report(config: ml_collections.ConfigDict, options: flags.FlagValues) -> str:
    """The prediction as Markdown."""
    spec = EncoderSpec(config.encoder.variant, config.encoder.registers)
    head = memory.head_parameters(spec, config)
    plan = make_plan(config.train, options.training_slices)
    encoder, decoder = forward(spec, config, 1)
    trained = hours.training_step(spec, config, 1)
    frozen = memory.encoder_weights(spec, config.encoder.dtype)[0]
    giga = [sum(layer.flops for layer in part) / 1e9 for part in (encoder, decoder, trained.head)]
    columns = [column(config, machine, head, options) for machine in hours.MACHINES]
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
        f"| memory is of one device | {' | '.join(m.name for m in hours.MACHINES)} |",
        f"|---|{'---|' * len(hours.MACHINES)}",
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
