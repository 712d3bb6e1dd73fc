"""content of calibration.json -> a table in Markdown, and the command that sets what was chosen."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import ml_collections

from lagseg_jax.evaluation.calibration import SETTINGS, VOLUMES
from lagseg_jax.inference.postprocess import DEFAULT, PostProcessing

PLACES = ("near_atrium", "all_voxels")


def table(result: Mapping) -> list[str]:
    """Default and chosen setting on the test cases, the reliability curve, the time."""
    test, cases = result["test"], result["cases"]
    margin = result["margin_mm"]

    def row(title: str, cell) -> str:
        return f"| {title} | {' | '.join(cell(name) for name in SETTINGS)} |"

    def volume(kind: str, of: str, sign: str = "+"):
        return lambda name: f"{test[name]['volume_ml'][kind][of]:{sign}.2f}"

    def calibration(what: str, where: str):
        return lambda name: _number(test[name]["calibration"][where][what], 5)

    lines = [
        f"Step {result['step']}; chosen on {len(cases['validation'])} validation cases, scored on "
        f"{len(cases['test'])} test cases:",
        "",
        "| | default | chosen |",
        "|---|---|---|",
        row("setting", lambda name: str(PostProcessing(**result[name]))),
        row("validation Dice", lambda name: f"{result['validation_dice'][name]:.4f}"),
        row("test Dice", lambda name: _mean_sd(test[name]["dice"], 4)),
        row("test HD95 (mm)", lambda name: _mean_sd(test[name]["hd95_mm"], 2)),
    ]
    for kind, title in zip(VOLUMES, ("mask", "sum of probabilities")):
        lines += [
            row(f"volume of the {title}, bias (mL)", volume(kind, "bias")),
            row("the same, mean absolute error (mL)", volume(kind, "mean_absolute_error", "")),
        ]
    lines.append(row("sum of probabilities - mask (mL)", volume("expected", "minus_mask")))
    for where, title in zip(PLACES, (f"within {margin:g} mm of the atrium's box", "all voxels")):
        lines += [
            row(f"calibration error (ECE), {title}", calibration("ece", where)),
            row(f"Brier score, {title}", calibration("brier", where)),
        ]
    dice = result["chosen_minus_default"]["dice"]
    lines += [
        "",
        f"Test Dice, chosen - default: {dice['mean_difference']:+.4f} "
        f"[{dice['low']:+.4f}, {dice['high']:+.4f}], better in {dice['wins']}, worse in "
        f"{dice['losses']} of {dice['n']} cases.",
        "",
        f"| probability (within {margin:g} mm) | voxels | mean | part that is atrium |",
        "|---|---|---|---|",
    ]
    for one in test["default"]["calibration"]["near_atrium"]["curve"]:
        numbers = (_number(one[name], 3) for name in ("probability", "frequency"))
        bounds = f"{one['low']:g} to {one['high']:g}"
        lines.append(f"| {bounds} | {one['voxels']} | {' | '.join(numbers)} |")
    seconds = result["seconds_per_volume"]
    lines += ["", "| prediction of one volume | seconds |", "|---|---|"]
    titles = {"plain": "plain", "tta": "four mirrorings (--tta)", "smoothing": "smoothed"}
    return lines + [f"| {title} | {seconds[name]:.2f} |" for name, title in titles.items()]


def advice(result: Mapping, workdir: Path, config: ml_collections.ConfigDict) -> str:
    """What to do to use the chosen setting: nothing, or a command.

    Args:
        result: content of calibration.json.
        workdir: of the run.
        config: of the run, as it is now.
    """
    chosen = PostProcessing(**result["chosen"])
    if chosen == PostProcessing.of(config.predict):
        return f"{workdir / 'config.json'} has the chosen setting already."
    return (
        "To use the chosen setting, evaluate with it; config.json then keeps it, and predict and "
        f"export obey:\n    {shlex.join([*_training_command(workdir), *chosen.flags()])}"
    )


def _training_command(workdir: Path) -> list[str]:
    """The command that wrote the evaluation, as one that only evaluates."""
    try:
        words = shlex.split(
            json.loads((workdir / "evaluation/manifest.json").read_text())["command"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        words = []
    if "lagseg_jax.main" not in words:
        words = ["python", "-m", "lagseg_jax.main", "--config=CONFIG", f"--workdir={workdir}"]
    changed = ("--mode=", *(f"{field.partition('=')[0]}=" for field in DEFAULT.flags()))
    return [*(word for word in words if not word.startswith(changed)), "--mode=evaluate"]


def _mean_sd(value: Mapping, digits: int) -> str:
    spread = "" if value["sd"] is None else f" +- {value['sd']:.{digits}f}"
    return _number(value["mean"], digits) + spread


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
