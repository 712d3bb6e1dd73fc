"""Shows what a calibration found, as tables in Markdown, and says how to use what it chose."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from lagseg_jax.evaluation.calibration import SETTINGS, VOLUMES
from lagseg_jax.inference.postprocess import PostProcessing
from lagseg_jax.reports.markdown import decimal, table_head, table_row

PLACES = ("near_atrium", "all_voxels")


def calibration_lines(result: Mapping[str, Any]) -> list[str]:
    """The content of calibration.json: default and chosen setting, reliability curve, seconds."""
    cases, dice = result["cases"], result["chosen_minus_default"]["dice"]
    seconds = result["seconds_per_volume"]
    titles = {"plain": "plain", "tta": "four mirrorings (--tta)", "smoothing": "smoothed"}
    return [
        f"Step {result['step']}; chosen on {len(cases['validation'])} validation cases, scored on "
        f"{len(cases['test'])} test cases:",
        "",
        *_settings(result),
        "",
        f"Test Dice, chosen - default: {dice['mean_difference']:+.4f} "
        f"[{dice['low']:+.4f}, {dice['high']:+.4f}], better in {dice['wins']}, worse in "
        f"{dice['losses']} of {dice['n']} cases.",
        "",
        *_curve(result),
        "",
        *table_head(["prediction of one volume", "seconds"]),
        *(table_row([title, f"{seconds[name]:.2f}"]) for name, title in titles.items()),
    ]


def _settings(result: Mapping[str, Any]) -> list[str]:
    """A column for each setting, a row for each thing measured on the test cases."""
    test = result["test"]

    def row(title: str, cell: Callable[[str], str]) -> str:
        return table_row([title, *map(cell, SETTINGS)])

    def volume(kind: str, of: str, sign: str = "+") -> Callable[[str], str]:
        return lambda name: f"{test[name]['volume_ml'][kind][of]:{sign}.1f}"

    def calibration(what: str, where: str) -> Callable[[str], str]:
        return lambda name: decimal(test[name]["calibration"][where][what], 5)

    lines = [
        "| | default | chosen |",
        "|---|---|---|",
        row("setting", lambda name: str(PostProcessing(**result[name]))),
        row("validation Dice", lambda name: f"{result['validation_dice'][name]:.4f}"),
        row("test Dice", lambda name: _mean_and_sd(test[name]["dice"], 4)),
        row("test HD95 (mm)", lambda name: _mean_and_sd(test[name]["hd95_mm"], 2)),
    ]
    for kind, title in zip(VOLUMES, ("mask", "sum of probabilities")):
        lines += [
            row(f"volume of the {title}, bias (mL)", volume(kind, "bias")),
            row("the same, mean absolute error (mL)", volume(kind, "mean_absolute_error", "")),
        ]
    lines.append(row("sum of probabilities - mask (mL)", volume("expected", "minus_mask")))
    near = f"within {result['margin_mm']:g} mm of the atrium's box"
    for where, title in zip(PLACES, (near, "all voxels")):
        lines += [
            row(f"calibration error (ECE), {title}", calibration("ece", where)),
            row(f"Brier score, {title}", calibration("brier", where)),
        ]
    return lines


def _curve(result: Mapping[str, Any]) -> list[str]:
    """The reliability curve of the default setting: a row for each bin of the probability."""
    near = f"probability (within {result['margin_mm']:g} mm)"
    lines = table_head([near, "voxels", "mean", "part that is atrium"])
    for one in result["test"]["default"]["calibration"]["near_atrium"]["curve"]:
        numbers = (decimal(one[name], 3) for name in ("probability", "frequency"))
        bounds = f"{one['low']:g} to {one['high']:g}"
        lines.append(table_row([bounds, str(one["voxels"]), *numbers]))
    return lines


def advice(result: Mapping[str, Any], workdir: Path, config: ml_collections.ConfigDict) -> str:
    """What to do to use the chosen setting: nothing, or a command.

    Nothing in the command comes from the files of the run, which may be a stranger's.

    Args:
        result: content of calibration.json.
        workdir: of the run.
        config: of the run, as it is now.
    """
    chosen = PostProcessing(**result["chosen"])
    if chosen == PostProcessing.of(config.predict):
        return f"{workdir / 'config.json'} has the chosen setting already."
    command = ["python", "-m", "lagseg_jax.main", f"--workdir={workdir}", "--mode=evaluate"]
    return (
        "To use the chosen setting, evaluate with it; config.json then keeps it, and predict and "
        f"export obey:\n    {shlex.join([*command, *chosen.flags()])}"
    )


def _mean_and_sd(value: Mapping[str, float | None], digits: int) -> str:
    spread = "" if value["sd"] is None else f" +- {value['sd']:.{digits}f}"
    return decimal(value["mean"], digits) + spread
