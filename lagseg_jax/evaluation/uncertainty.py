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
from lagseg_jax.evaluation.evaluate import read_labelled
from lagseg_jax.evaluation.metrics import dice
from lagseg_jax.imaging.masks import volume_ml
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.inference.estimated_mask import mask_and_probability
from lagseg_jax.inference.estimator import Estimator
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.inference.uncertainty import SURE, UNCERTAINTY, Uncertainty, log_odds, stability
from lagseg_jax.runs.training_range import read_training_range
from lagseg_jax.runtime.console import Progress, still
from lagseg_jax.runtime.files import write_json
from lagseg_jax.runtime.processes import allgather, once, share

LARGEST = 10.0  # log(true volume / volume), also where one of them is 0


def with_estimator(segmenter: Segmenter, cases: Sequence[Case], workdir: Path) -> Segmenter:
    """Predicts the validation cases, writes `uncertainty.json`, and lets the segmenter estimate.

    Several processes share the cases.

    Args:
        segmenter: a trained model.
        cases: of the validation, labelled.
        workdir: of the run.

    Raises:
        InputError: a file cannot be used.
    """
    rows = []
    progress = Progress("measuring uncertainty", len(cases))
    for case in share(cases):
        with still(f"predicting {case.image}"):
            image, label = read_labelled(case, segmenter.config.data)
            numbers, _ = measured(segmenter, image.array, image.affine, label.array)
            rows.append({"case": case.name, **numbers})
        progress.advance({"dice": f"{rows[-1]['dice']:.3f}"})
    progress.close()
    by_name = {row["case"]: row for part in allgather(rows) for row in part}
    rows = [by_name[case.name] for case in cases]
    found = fit(segmenter.step, rows)
    content = {**dataclasses.asdict(found), "validation": rows}
    once(write_json, workdir / UNCERTAINTY, content)
    estimator = Estimator(
        found, read_training_range(workdir), segmenter.config.data, segmenter.plane
    )
    return dataclasses.replace(segmenter, estimator=estimator)


def measured(
    segmenter: Segmenter, grey: np.ndarray, affine: np.ndarray, truth: np.ndarray
) -> tuple[dict[str, float], np.ndarray]:
    """The numbers of a case that `fit` needs, and its mask.

    Args:
        segmenter: a trained model.
        grey: (x, y, z), grey values as stored.
        affine: (4, 4), voxel index -> mm.
        truth: (x, y, z), non-zero inside.
    """
    axis = to_slices(grey, affine, segmenter.plane)[1].volume_axis
    post = segmenter.postprocessing
    mask, probability = mask_and_probability(segmenter, grey, affine, False, post)
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
