"""Chooses threshold, components and smoothing of a run on its validation cases, and tests them.

All settings of the grid are scored from one prediction per case. The test cases say what the choice
changes, and whether the probabilities are calibrated.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.data.cases import Case
from lagseg_jax.data.run_split import finished_split
from lagseg_jax.evaluation import calibration
from lagseg_jax.evaluation.calibration import SETTINGS, VOLUMES
from lagseg_jax.evaluation.compare import Scores, compare_pair
from lagseg_jax.evaluation.evaluate import read_labelled
from lagseg_jax.evaluation.metrics import case_metrics, dice, summarise
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.masks import bounding_box
from lagseg_jax.imaging.slices import SliceGeometry, to_slices
from lagseg_jax.inference.load_segmenter import load_segmenter
from lagseg_jax.inference.postprocess import DEFAULT, PostProcessing, smooth_across_slices
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.runtime.console import Progress, still
from lagseg_jax.runtime.files import check_writable, without_nan, write_json

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
COMPONENTS = (1, 0)
SMOOTHING = (0.0, 0.5, 1.0, 2.0)  # in distances between slices


def calibrate_run(
    workdir: Path,
    data_root: str | tuple[str, ...] | None = None,
    weights: str | None = None,
    allow: str = "",
) -> dict[str, Any]:
    """Calibrates a finished run, and writes `evaluation/calibration.json` into it.

    Args:
        workdir: of the run; nothing else in it changes.
        data_root: folder of the dataset, or of several, if it was moved.
        weights: folder of the encoder weights, if they were moved.
        allow: "changed_label" accepts labels that were corrected since the training.

    Returns:
        The content of calibration.json.

    Raises:
        InputError: not a finished run, or a file cannot be used.
    """
    split = finished_split(workdir, data_root, allow)
    check_writable(workdir / "evaluation", "a workdir that can")
    result = calibrate(load_segmenter(workdir, weights), split)
    folder = workdir / "evaluation"
    folder.mkdir(exist_ok=True)
    write_json(folder / "calibration.json", result)
    return result


def calibrate(segmenter: Segmenter, split: Mapping[str, Sequence[Case]]) -> dict[str, Any]:
    """Predicts the validation and the test cases, each once, and the first one for the time.

    Args:
        segmenter: a trained model; its own threshold, components and smoothing do not count.
        split: {"validation": cases, "test": cases}, labelled.

    Returns:
        The content of calibration.json.

    Raises:
        InputError: a file cannot be used.
    """
    dice_of = score_grid(segmenter, split["validation"])
    chosen = best_setting(dice_of)
    mean_dice = {setting: float(np.mean(values)) for setting, values in dice_of.items()}
    rows, sums = score_test_cases(segmenter, split["test"], (DEFAULT, chosen))
    scores = [Scores(n, {row["case"]: row for row in rows[n]}, {}) for n in reversed(SETTINGS)]
    return {
        "step": segmenter.step,
        "encoder": segmenter.encoder.report(),
        "cases": {part: [case.name for case in split[part]] for part in ("validation", "test")},
        "default": DEFAULT.fields(),
        "chosen": chosen.fields(),
        "validation_dice": {"default": mean_dice[DEFAULT], "chosen": mean_dice[chosen]},
        "validation_grid": [{**s.fields(), "dice": d} for s, d in mean_dice.items()],
        "test": {
            name: {
                **summarise(rows[name]),
                "volume_ml": {kind: volume_errors(rows[name], kind) for kind in VOLUMES},
                "calibration": {where: _calibration(s) for where, s in sums[name].items()},
                "per_case": [without_nan(row) for row in rows[name]],
            }
            for name in SETTINGS
        },
        "chosen_minus_default": compare_pair(*scores),
        "margin_mm": calibration.MARGIN_MM,
        "seconds_per_volume": seconds_per_volume(segmenter, split["validation"][0]),
    }


def score_grid(segmenter: Segmenter, cases: Sequence[Case]) -> dict[PostProcessing, list[float]]:
    """3D Dice of every validation case with every setting of the grid."""
    data = segmenter.config.data
    images = (read_labelled(case, data)[0] for case in cases)
    settings = grid(_geometry(segmenter, image).spacing[0] for image in images)
    found = []
    progress = Progress("choosing on validation cases", len(cases))
    for _, image, label, probability in _predicted(segmenter, cases):
        how = image.affine, settings, segmenter.plane
        found.append(dice_of_settings(probability, label.array, *how))
        progress.advance({"dice": f"{found[-1][DEFAULT]:.3f}"})
    progress.close()
    return {setting: [one[setting] for one in found] for setting in settings}


def score_test_cases(
    segmenter: Segmenter, cases: Sequence[Case], settings: tuple[PostProcessing, PostProcessing]
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, np.ndarray]]]:
    """Test cases with the default and the chosen setting.

    Returns:
        {"default", "chosen"}: rows of `case_metrics` with `case` and `expected_ml`; and of the same
        `bin_sums` over all cases, {"near_atrium", "all_voxels"}.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SETTINGS}
    sums: dict[str, dict[str, np.ndarray]] = {name: {} for name in SETTINGS}
    progress = Progress("scoring test cases", len(cases))
    for case, image, label, probability in _predicted(segmenter, cases):
        axis = _geometry(segmenter, image).volume_axis
        near = calibration.near_atrium(label.array, image.affine)
        for name, setting in zip(SETTINGS, settings):
            smooth = image.affine, setting.smooth_mm, segmenter.plane
            smoothed = smooth_across_slices(probability, *smooth)
            mask = setting.mask(smoothed, image.affine)
            row = case_metrics(label.array, mask, image.affine, axis)
            expected = calibration.expected_ml(smoothed, image.affine)
            rows[name].append({"case": case.name, **row, "expected_ml": expected})
            for where, box in (("near_atrium", near), ("all_voxels", (...,))):
                found = calibration.bin_sums(smoothed[box], label.array[box])
                sums[name][where] = sums[name].get(where, 0) + found
        progress.advance({"dice": f"{rows['default'][-1]['dice']:.3f}"})
    progress.close()
    return rows, sums


def _predicted(
    segmenter: Segmenter, cases: Sequence[Case]
) -> Iterator[tuple[Case, Volume, Volume, np.ndarray]]:
    """Each case with its image, its label and its probability, which is not smoothed."""
    for case in cases:
        with still(f"scoring {case.image}"):
            image, label = read_labelled(case, segmenter.config.data)
            place = image.array, image.spacing, image.affine
            yield case, image, label, segmenter.predict_probability(*place, smooth_mm=0)


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


def seconds_per_volume(segmenter: Segmenter, case: Case) -> dict[str, float]:
    """Wall time of `segment` for one case: plain, with mirroring, with smoothing."""
    image, _ = read_labelled(case, segmenter.config.data)
    geometry = _geometry(segmenter, image)
    smoothing = PostProcessing(smooth_mm=geometry.spacing[0])
    first = np.take(image.array, [0], axis=geometry.volume_axis)
    one_slice = replace(image, array=first)
    seconds = {}
    for name, post, tta in (
        ("plain", DEFAULT, False),
        ("tta", DEFAULT, True),
        ("smoothing", smoothing, False),
    ):
        segmenter.segment(one_slice, tta, post)  # compiles
        with still(f"measuring the time of {case.image}"):
            start = time.perf_counter()
            segmenter.segment(image, tta, post)
            seconds[name] = time.perf_counter() - start
    return seconds


def _geometry(segmenter: Segmenter, image: Volume) -> SliceGeometry:
    return to_slices(image.array, image.affine, segmenter.plane)[1]


def _calibration(sums: np.ndarray) -> dict[str, Any]:
    numbers = {
        "ece": calibration.expected_calibration_error(sums),
        "brier": calibration.brier_score(sums),
    }
    return {**without_nan(numbers), "curve": calibration.reliability_curve(sums)}


def grid(spacings_mm: Iterable[float]) -> list[PostProcessing]:
    """All settings to try.

    Args:
        spacings_mm: through-plane, of the cases; the median is the unit of `SMOOTHING`.
    """
    unit = float(np.median(list(spacings_mm)))
    return [
        PostProcessing(threshold, components, round(factor * unit, 3))
        for factor in SMOOTHING
        for threshold in THRESHOLDS
        for components in COMPONENTS
    ]


def dice_of_settings(
    probability: np.ndarray,
    truth: np.ndarray,
    affine: np.ndarray,
    settings: Sequence[PostProcessing],
    plane: str = "",
) -> dict[PostProcessing, float]:
    """The 3D Dice of one case with every setting.

    Args:
        probability: (x, y, z) float32, not smoothed.
        truth: (x, y, z), non-zero inside.
        affine: (4, 4), voxel index -> mm.
        settings: to try.
        plane: of the slices, as in `slices.to_slices`.
    """
    scores: dict[PostProcessing, float] = {}
    for smooth_mm in {setting.smooth_mm for setting in settings}:
        some = [setting for setting in settings if setting.smooth_mm == smooth_mm]
        smoothed = smooth_across_slices(probability, affine, smooth_mm, plane)
        # Outside of this box nothing is in any mask: most of the volume.
        lowest = min(setting.threshold for setting in some)
        box = bounding_box((smoothed >= lowest) | (truth != 0))
        smoothed, inside = smoothed[box], truth[box]
        scores |= {setting: dice(inside, setting.mask(smoothed, affine)) for setting in some}
    return {setting: scores[setting] for setting in settings}


def best_setting(dice_of: Mapping[PostProcessing, Sequence[float]]) -> PostProcessing:
    """The setting nearest to the default among those that cannot be told from the best one.

    That is the one-standard-error rule (Breiman et al. 1984, section 3.4.3) for paired cases: with
    d = Dice of the setting of highest mean - Dice of this one, case by case, it is as good if
    mean(d) <= SD(d) / sqrt(n). The highest mean alone would choose by noise: there are many
    settings and few cases.

    Args:
        dice_of: of every setting, one Dice per validation case, in the same order.
    """
    highest = np.array(max(dice_of.values(), key=lambda values: float(np.mean(values))))
    as_good = []
    for setting, values in dice_of.items():
        difference = highest - values
        error = difference.std(ddof=1) / np.sqrt(difference.size) if difference.size > 1 else 0.0
        if difference.mean() <= error + 1e-6:
            as_good.append(setting)

    def distance(setting: PostProcessing) -> tuple[float, bool, float]:
        other = setting.components != DEFAULT.components
        return setting.smooth_mm, other, abs(setting.threshold - DEFAULT.threshold)

    return min(as_good, key=distance)
