"""probabilities + truth of validation cases -> threshold, components and smoothing that suit best.

A setting is what turns the probability of a volume into its mask. All of the grid are scored from
one prediction per case.
"""

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lagseg_jax.evaluation.calibration import (
    MARGIN_MM,
    SETTINGS,
    VOLUMES,
    bin_sums,
    brier_score,
    expected_calibration_error,
    expected_ml,
    near_atrium,
    reliability_curve,
)
from lagseg_jax.evaluation.compare import Scores, compare_pair
from lagseg_jax.evaluation.metrics import case_metrics, dice, summarise
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.masks import bounding_box
from lagseg_jax.imaging.slices import SliceGeometry, to_slices
from lagseg_jax.imaging.volume import read_image_and_label
from lagseg_jax.inference.postprocess import DEFAULT, Setting, smooth_across_slices
from lagseg_jax.runtime.console import Progress, still
from lagseg_jax.runtime.files import without_nan


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
                "per_case": [without_nan(row) for row in rows[name]],
            }
            for name in SETTINGS
        },
        "chosen_minus_default": compare_pair(*scores),
        "margin_mm": MARGIN_MM,
        "seconds_per_volume": seconds_per_volume(segmenter, split["validation"][0]),
    }


def validate(segmenter, cases: Sequence) -> dict[Setting, list[float]]:
    """3D Dice of every validation case with every setting of the grid."""
    settings = grid(_geometry(segmenter, _read(segmenter, case)[0]).spacing[0] for case in cases)
    found = []
    progress = Progress("choosing on validation cases", len(cases))
    for case in cases:
        with still(f"scoring {case.image}"):
            image, label = _read(segmenter, case)
            place = image.spacing, image.affine
            probability = segmenter.predict_probability(image.array, *place)
            found.append(
                dice_of_settings(probability, label.array, image.affine, settings, segmenter.plane)
            )
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
            axis = _geometry(segmenter, image).volume_axis
            near = near_atrium(label.array, image.affine)
            for name, setting in zip(SETTINGS, settings):
                smoothed = smooth_across_slices(
                    probability, image.affine, setting.smooth_mm, segmenter.plane
                )
                mask = setting.mask(smoothed)
                row = case_metrics(label.array, mask, image.affine, axis)
                expected = expected_ml(smoothed, image.affine)
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
    geometry = _geometry(segmenter, image)
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
    told = data.orientation, tuple(data.allow)
    return read_image_and_label(case.image, case.label, *limits, *told)


def _geometry(segmenter, image: Volume) -> SliceGeometry:
    return to_slices(image.array, image.affine, segmenter.plane)[1]


def _calibration(sums: np.ndarray) -> dict:
    numbers = {"ece": expected_calibration_error(sums), "brier": brier_score(sums)}
    return {**without_nan(numbers), "curve": reliability_curve(sums)}


THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
COMPONENTS = (1, 0)
SMOOTHING = (0.0, 0.5, 1.0, 2.0)  # in distances between slices


def grid(spacings_mm: Iterable[float]) -> list[Setting]:
    """All settings to try.

    Args:
        spacings_mm: through-plane, of the cases; the median is the unit of `SMOOTHING`.
    """
    unit = float(np.median(list(spacings_mm)))
    return [
        Setting(threshold, components, round(factor * unit, 3))
        for factor in SMOOTHING
        for threshold in THRESHOLDS
        for components in COMPONENTS
    ]


def dice_of_settings(
    probability: np.ndarray,
    truth: np.ndarray,
    affine: np.ndarray,
    settings: Iterable[Setting],
    plane: str = "",
) -> dict[Setting, float]:
    """The 3D Dice of one case with every setting.

    Args:
        probability: (x, y, z) float32, not smoothed.
        truth: (x, y, z), non-zero inside.
        affine: (4, 4), voxel index -> mm.
        settings: to try.
        plane: of the slices, as in `slices.to_slices`.
    """
    settings = list(settings)
    scores: dict[Setting, float] = {}
    for smooth_mm in {setting.smooth_mm for setting in settings}:
        some = [setting for setting in settings if setting.smooth_mm == smooth_mm]
        smoothed = smooth_across_slices(probability, affine, smooth_mm, plane)
        # Outside of this box nothing is in any mask: most of the volume.
        lowest = min(setting.threshold for setting in some)
        box = bounding_box((smoothed >= lowest) | (truth != 0))
        smoothed, inside = smoothed[box], truth[box]
        scores |= {setting: dice(inside, setting.mask(smoothed)) for setting in some}
    return {setting: scores[setting] for setting in settings}


def best_setting(dice_of: Mapping[Setting, Sequence[float]]) -> Setting:
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

    def distance(setting: Setting) -> tuple:
        other = setting.components != DEFAULT.components
        return setting.smooth_mm, other, abs(setting.threshold - DEFAULT.threshold)

    return min(as_good, key=distance)
