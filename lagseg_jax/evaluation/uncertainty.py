"""Measures on validation cases how good and how large masks are, beside what their model says.

The checkpoint was chosen on these cases, so that new ones are a little worse.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.data.cases import Case
from lagseg_jax.data.run_split import finished_split
from lagseg_jax.data.seen_cases import validation_images
from lagseg_jax.evaluation.evaluate import read_labelled
from lagseg_jax.evaluation.metrics import dice
from lagseg_jax.imaging.masks import volume_ml
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.inference.estimated_mask import mask_and_probability
from lagseg_jax.inference.estimator import Estimator
from lagseg_jax.inference.load_segmenter import load_segmenter
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.inference.uncertainty import SURE, Uncertainty, log_odds, stability
from lagseg_jax.inference.uncertainty_record import UNCERTAINTY, record_path
from lagseg_jax.runs.training_range import read_training_range
from lagseg_jax.runtime.console import Progress, still
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import check_writable, write_json
from lagseg_jax.runtime.processes import allgather, once, share

LARGEST = 10.0  # log(true volume / volume), also where one of them is 0


def with_estimator(segmenter: Segmenter, cases: Sequence[Case], workdir: Path) -> Segmenter:
    """Predicts the validation cases, writes `uncertainty.json`, and lets the segmenter estimate.

    Args:
        segmenter: a trained model.
        cases: of the validation, labelled.
        workdir: of the run.

    Raises:
        InputError: a file cannot be used.
    """
    found, _ = measure(segmenter, cases, workdir / UNCERTAINTY)
    estimator = Estimator(
        found, read_training_range(workdir), segmenter.config.data, segmenter.plane
    )
    return dataclasses.replace(segmenter, estimator=estimator)


def calibrate_estimates(
    workdirs: Sequence[Path],
    tta: bool,
    data_root: str | tuple[str, ...] | None = None,
    weights: Sequence[str] | None = None,
    allow: str = "",
) -> tuple[Path, list[dict[str, Any]]]:
    """Measures estimates of a run, or of an ensemble of runs that share validation cases.

    Args:
        workdirs: of the runs; the first one's keeps what is found, nothing else changes.
        tta: whether mirrorings are averaged.
        data_root: folder of the dataset, or of several, if it was moved.
        weights: folders of the encoder weights, one or one for each run, if they were moved.
        allow: "changed_label" accepts labels that were corrected since the training.

    Returns:
        The record's file, and the numbers of `measured` of each case, by `case`.

    Raises:
        InputError: not finished runs, no validation case of all, or a file cannot be used.
    """
    split = finished_split(workdirs[0], data_root, allow)
    cases = in_all_validations(split["validation"], workdirs)
    path = record_path(workdirs, tta)
    check_writable(path.parent, "a first workdir that can")
    _, rows = measure(load_segmenter(workdirs, weights), cases, path, tta)
    return path, rows


def in_all_validations(cases: Sequence[Case], workdirs: Sequence[Path]) -> list[Case]:
    """Those of the first run's validation cases whose image is in the validation of all others.

    No run has learnt from them, though each has chosen its checkpoint on them.

    Raises:
        InputError: there is none.
    """
    images = [validation_images(workdir) for workdir in workdirs]
    common = set.intersection(*(set(one.values()) for one in images))
    found = [case for case in cases if images[0].get(case.name) in common]
    if not found:
        raise InputError(
            f"no validation case is one of all of {', '.join(map(str, workdirs))}, expected runs "
            "with the same split: only cases that no run has learnt from say how good estimates are"
        )
    return found


def measure(
    segmenter: Segmenter, cases: Sequence[Case], path: Path, tta: bool = False
) -> tuple[Uncertainty, list[dict[str, Any]]]:
    """Predicts labelled cases, and writes down what they say; several processes share them.

    Returns:
        What was found, and the rows of `measured` by `case`.
    """
    rows = []
    progress = Progress("measuring uncertainty", len(cases))
    for case in share(cases):
        with still(f"predicting {case.image}"):
            image, label = read_labelled(case, segmenter.config.data)
            numbers, _ = measured(segmenter, image.array, image.affine, label.array, tta)
            rows.append({"case": case.name, **numbers})
        progress.advance({"dice": f"{rows[-1]['dice']:.3f}"})
    progress.close()
    by_name = {row["case"]: row for part in allgather(rows) for row in part}
    rows = [by_name[case.name] for case in cases]
    found = fit(segmenter.step, rows)
    once(write_json, path, {**dataclasses.asdict(found), "validation": rows})
    return found, rows


def measured(
    segmenter: Segmenter, grey: np.ndarray, affine: np.ndarray, truth: np.ndarray, tta: bool
) -> tuple[dict[str, float], np.ndarray]:
    """The numbers of a case that `fit` needs, and its mask.

    Args:
        segmenter: a trained model.
        grey: (x, y, z), grey values as stored.
        affine: (4, 4), voxel index -> mm.
        truth: (x, y, z), non-zero inside.
        tta: whether mirrorings are averaged.
    """
    axis = to_slices(grey, affine, segmenter.plane)[1].volume_axis
    post = segmenter.postprocessing
    mask, probability = mask_and_probability(segmenter, grey, affine, tta, post)
    return {
        "dice": dice(truth, mask),
        "stability": stability(probability, mask, post.threshold, axis),
        "truth_ml": volume_ml(truth, affine),
        "prediction_ml": volume_ml(mask, affine),
    }, mask


def fit(step: int, rows: Sequence[Mapping[str, Any]]) -> Uncertainty:
    """What cases with truth say about a model.

    Two numbers and no more: there are few validation cases. The median is not moved by one failed
    case, the root mean square is.

    Args:
        step: of the checkpoint.
        rows: with `dice`, `stability`, `truth_ml` and `prediction_ml`; at least one.
    """
    shifts = [log_odds(row["dice"]) - log_odds(row["stability"]) for row in rows]
    errors = [
        log_ratio(row["truth_ml"], row["prediction_ml"]) / max(1 - row["stability"], 1 - SURE)
        for row in rows
    ]
    error = math.sqrt(float(np.mean(np.square(errors))))
    return Uncertainty(step, len(rows), float(np.median(shifts)), error)


def log_ratio(truth: float, volume: float) -> float:
    """log(truth / volume) within -+ `LARGEST`; 0 for two empty masks."""
    if truth == volume:
        return 0.0
    if not truth or not volume:
        return LARGEST
    return float(np.clip(math.log(truth / volume), -LARGEST, LARGEST))
