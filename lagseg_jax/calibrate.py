"""finished run -> how its probabilities are to be read: python -m lagseg_jax.calibrate WORKDIR.

The validation cases choose threshold, components and smoothing; the test cases say what that
changes, and whether the probabilities are calibrated. Nothing in the run is changed: the fields to
set are printed. The table and all numbers behind it go to `evaluation/calibration.json`.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lagseg_jax.calibration import (
    MARGIN_MM,
    bin_sums,
    brier_score,
    expected_calibration_error,
    expected_ml,
    near_atrium,
    reliability_curve,
)
from lagseg_jax.calibration_table import SETTINGS, VOLUMES, advice, table
from lagseg_jax.compare import Scores, compare_pair
from lagseg_jax.errors import InputError
from lagseg_jax.logs import Progress, exit_status, log, log_to_console, still
from lagseg_jax.metrics import case_metrics, summarise
from lagseg_jax.setting import DEFAULT, Setting, best_setting, dice_of_settings, grid
from lagseg_jax.slices import SliceGeometry, to_slices
from lagseg_jax.smoothing import smooth_across_slices
from lagseg_jax.volume import Volume, read_image_and_label
from lagseg_jax.workdir import has_checkpoints, read_config, write_atomically


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m lagseg_jax.calibrate",
        description="Chooses threshold, components and smoothing on the validation cases of a run, "
        "and reports them and the calibration of the probabilities on its test cases.",
    )
    parser.add_argument("workdir", type=Path, help="folder of a finished training run")
    parser.add_argument("--data", metavar="DATASET", help="folder of the dataset, if it was moved")
    parser.add_argument("--weights", help="folder of the encoder weights, if they were moved")
    return parser.parse_args(arguments)


def calibrate(segmenter, split: Mapping[str, Sequence]) -> dict:
    """Predicts the validation and the test cases, each once, and the first one for the time.

    Args:
        segmenter: a trained model; its own threshold, components and smoothing do not count.
        split: {"validation": cases, "test": cases}, labelled.

    Returns:
        The content of calibration.json.

    Raises:
        InputError: a file cannot be used.
    """
    segmenter = _with(segmenter, DEFAULT)
    dice_of = validate(segmenter, split["validation"])
    chosen = best_setting(dice_of)
    mean_dice = {setting: float(np.mean(values)) for setting, values in dice_of.items()}
    rows, sums = score(segmenter, split["test"], (DEFAULT, chosen))
    scores = [Scores(n, {row["case"]: row for row in rows[n]}, {}) for n in reversed(SETTINGS)]
    return {
        "step": segmenter.step,
        "encoder": segmenter.encoder.report(),
        "cases": {part: [case.name for case in split[part]] for part in ("validation", "test")},
        "default": dataclasses.asdict(DEFAULT),
        "chosen": dataclasses.asdict(chosen),
        "validation_dice": {"default": mean_dice[DEFAULT], "chosen": mean_dice[chosen]},
        "validation_grid": [{**dataclasses.asdict(s), "dice": d} for s, d in mean_dice.items()],
        "test": {
            name: {
                **summarise(rows[name]),
                "volume_ml": {kind: volume_errors(rows[name], kind) for kind in VOLUMES},
                "calibration": {where: _calibration(s) for where, s in sums[name].items()},
                "per_case": [_without_nan(row) for row in rows[name]],
            }
            for name in SETTINGS
        },
        "chosen_minus_default": compare_pair(*scores),
        "margin_mm": MARGIN_MM,
        "seconds_per_volume": seconds_per_volume(segmenter, split["validation"][0]),
    }


def validate(segmenter, cases: Sequence) -> dict[Setting, list[float]]:
    """3D Dice of every validation case with every setting of the grid."""
    settings = grid(_geometry(_read(segmenter, case)[0]).spacing[0] for case in cases)
    found = []
    progress = Progress("choosing on validation cases", len(cases))
    for case in cases:
        with still(f"scoring {case.image}"):
            image, label = _read(segmenter, case)
            place = image.spacing, image.affine
            probability = segmenter.predict_probability(image.array, *place)
            found.append(dice_of_settings(probability, label.array, image.affine, settings))
        progress.advance({"dice": f"{found[-1][DEFAULT]:.3f}"})
    progress.close()
    return {setting: [one[setting] for one in found] for setting in settings}


def score(
    segmenter, cases: Sequence, settings: tuple[Setting, Setting]
) -> tuple[dict[str, list[dict]], dict[str, dict[str, np.ndarray]]]:
    """Test cases with the default and the chosen setting.

    Returns:
        {"default", "chosen"}: rows of `case_metrics` with `case` and `expected_ml`; and of the same
        `bin_sums` over all cases, {"near_atrium", "all_voxels"}.
    """
    rows: dict[str, list[dict]] = {name: [] for name in SETTINGS}
    sums: dict[str, dict[str, np.ndarray]] = {name: {} for name in SETTINGS}
    progress = Progress("scoring test cases", len(cases))
    for case in cases:
        with still(f"scoring {case.image}"):
            image, label = _read(segmenter, case)
            place = image.spacing, image.affine
            probability = segmenter.predict_probability(image.array, *place)
            axis = _geometry(image).volume_axis
            near = near_atrium(label.array, image.spacing)
            for name, setting in zip(SETTINGS, settings):
                smoothed = smooth_across_slices(probability, image.affine, setting.smooth_mm)
                mask = setting.mask(smoothed)
                row = case_metrics(label.array, mask, image.spacing, axis)
                expected = expected_ml(smoothed, image.spacing)
                rows[name].append({"case": case.name, **row, "expected_ml": expected})
                for where, box in (("near_atrium", near), ("all_voxels", (...,))):
                    found = bin_sums(smoothed[box], label.array[box])
                    sums[name][where] = sums[name].get(where, 0) + found
        progress.advance({"dice": f"{rows['default'][-1]['dice']:.3f}"})
    progress.close()
    return rows, sums


def volume_errors(rows: Sequence[Mapping], kind: str) -> dict[str, float]:
    """Errors in mL of `prediction` (the mask) or `expected` volumes, over the cases.

    Returns:
        `bias` (mean of the error) and `mean_absolute_error` against the truth; and `minus_mask`,
        the mean difference to the volume of the mask.
    """
    errors = np.array([row[f"{kind}_ml"] - row["truth_ml"] for row in rows])
    to_mask = np.array([row[f"{kind}_ml"] - row["prediction_ml"] for row in rows])
    return {
        "bias": float(errors.mean()),
        "mean_absolute_error": float(np.abs(errors).mean()),
        "minus_mask": float(to_mask.mean()),
    }


def seconds_per_volume(segmenter, case) -> dict[str, float]:
    """Wall time of `predict_volume` for one case: plain, with mirroring, with smoothing."""
    image, _ = _read(segmenter, case)
    geometry = _geometry(image)
    smoothing = _with(segmenter, Setting(smooth_mm=geometry.spacing[0]))
    one_slice = np.take(image.array, [0], axis=geometry.volume_axis)
    seconds = {}
    for name, model, tta in (
        ("plain", segmenter, False),
        ("tta", segmenter, True),
        ("smoothing", smoothing, False),
    ):
        model.predict_volume(one_slice, image.spacing, image.affine, tta=tta)  # compiles
        with still(f"measuring the time of {case.image}"):
            start = time.perf_counter()
            model.predict_volume(image.array, image.spacing, image.affine, tta=tta)
            seconds[name] = time.perf_counter() - start
    return seconds


def _with(segmenter, setting: Setting):
    """The same model with another setting."""
    config = segmenter.config.copy_and_resolve_references()
    with config.unlocked():
        config.predict.update(dataclasses.asdict(setting))
    return dataclasses.replace(segmenter, config=config)


def _read(segmenter, case) -> tuple[Volume, Volume]:
    data = segmenter.config.data
    limits = data.label_value or None, int(data.max_gb * 1e9)
    return read_image_and_label(case.image, case.label, *limits)


def _geometry(image: Volume) -> SliceGeometry:
    return to_slices(image.array, image.affine)[1]


def _calibration(sums: np.ndarray) -> dict:
    numbers = {"ece": expected_calibration_error(sums), "brier": brier_score(sums)}
    return {**_without_nan(numbers), "curve": reliability_curve(sums)}


def _without_nan(row: Mapping) -> dict:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def main(arguments: list[str] | None = None) -> int:
    """Chooses, scores, writes and prints; returns the exit status."""
    options = parse_arguments(arguments)
    log_to_console()
    workdir = options.workdir
    config = read_config(workdir)  # refused before jax is loaded
    if not has_checkpoints(workdir):
        raise InputError(f"{workdir} has no checkpoint, expected a folder where training has run")
    from lagseg_jax.experiment import load_split
    from lagseg_jax.segmenter import load_segmenter

    config.data.root = options.data or config.data.root
    split = load_split(config, workdir)
    result = calibrate(load_segmenter(workdir, options.weights), split)
    path = workdir / "evaluation" / "calibration.json"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(result, indent=2) + "\n")
    print(*table(result), sep="\n")
    print(f"\n{advice(result, workdir, config)}")
    if warning := result["encoder"].get("warning"):
        log.warning("WARNING: %s", warning)
    log.info("%s", path)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
