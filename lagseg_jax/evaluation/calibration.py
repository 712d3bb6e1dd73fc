"""probabilities + truth (x, y, z) -> reliability curve, calibration error, Brier score, mL.

A probability is calibrated if, of all voxels with the probability p, the part p is atrium. The sums
that all of these numbers need are added up over the cases first: the voxels of all cases are one
set, in which a case counts by its number of voxels.
"""

import math
from collections.abc import Sequence

import numpy as np

from lagseg_jax.imaging.grid import plane_distances, voxel_mm3
from lagseg_jax.imaging.masks import bounding_box

BINS = 10  # of equal width
SETTINGS = ("default", "chosen")  # that are compared on the test cases
VOLUMES = ("prediction", "expected")  # of the mask, and the sum of the probabilities
MARGIN_MM = 10.0  # around the atrium: the voxels that a calibration is about


def near_atrium(
    truth: np.ndarray, grid: np.ndarray | Sequence[float], margin_mm: float = MARGIN_MM
) -> tuple[slice, ...]:
    """The bounding box of the true atrium, larger by a margin on all sides.

    Nearly all of a volume is background that any model is sure about, and over all voxels every
    calibration error is close to 0. The box follows from the truth alone, so that all models are
    judged by the same voxels.

    Args:
        truth: (x, y, z), non-zero inside.
        grid: affine (4, 4), or spacing in mm per axis.
        margin_mm: between planes of voxels, rounded up to whole voxels; the box ends where the
            volume does.

    Returns:
        A slice per axis; empty ones where the truth is empty.
    """
    wider = []
    for inside, step, size in zip(bounding_box(truth), plane_distances(grid), truth.shape):
        voxels = math.ceil(margin_mm / step - 1e-9) if inside.stop > inside.start else 0
        wider.append(slice(max(0, inside.start - voxels), min(size, inside.stop + voxels)))
    return tuple(wider)


def bin_sums(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> np.ndarray:
    """What is needed of the voxels in each bin of probability; such sums of cases may be added.

    Args:
        probability: (x, y, z) of atrium, 0..1.
        truth: (x, y, z), non-zero inside.
        bins: M; bin m holds m / M <= p < (m + 1) / M, the last one p = 1, too.

    Returns:
        (bins, 4) float64: voxels, sum of p, voxels of atrium, sum of (p - truth)^2.

    Raises:
        ValueError: the shapes differ.
    """
    if probability.shape != truth.shape:
        raise ValueError(f"shapes {probability.shape} and {truth.shape}, expected the same one")
    sums = np.zeros((bins, 4))
    for plane, inside in zip(probability, truth):  # not a volume of float64 at once
        p = plane.ravel().astype(np.float64)
        y = (inside.ravel() != 0).astype(np.float64)
        number = np.minimum((p * bins).astype(np.int64), bins - 1)
        for column, weights in enumerate((None, p, y, (p - y) ** 2)):
            sums[:, column] += np.bincount(number, weights, bins)
    return sums


def reliability_curve(sums: np.ndarray) -> list[dict[str, float | int | None]]:
    """Rows of `bin_sums` -> for each bin its bounds and what was predicted and what was found.

    Returns:
        `low`, `high`, `voxels`, `probability` (mean of the predicted ones) and `frequency` (part of
        the voxels that is atrium); the last two None in an empty bin.
    """
    curve: list[dict[str, float | int | None]] = []
    for number, (voxels, probability, atrium, _) in enumerate(sums.tolist()):
        curve.append(
            {
                "low": number / len(sums),
                "high": (number + 1) / len(sums),
                "voxels": int(voxels),
                "probability": probability / voxels if voxels else None,
                "frequency": atrium / voxels if voxels else None,
            }
        )
    return curve


def expected_calibration_error(sums: np.ndarray) -> float:
    """ECE = sum over bins of (voxels of the bin / all) |mean p - frequency of atrium|.

    Guo et al. 2017 (arXiv 1706.04599), equation 3, of the probability of atrium: they bin the
    confidence in the predicted class, so that errors of p = 0.1 and of p = 0.9 could cancel out.

    Args:
        sums: of `bin_sums`.

    Returns:
        0..1; NaN without voxels.
    """
    voxels = sums[:, 0].sum()
    return float(np.abs(sums[:, 1] - sums[:, 2]).sum() / voxels) if voxels else math.nan


def brier_score(sums: np.ndarray) -> float:
    """Mean of (p - truth)^2 over the voxels (Brier 1950), from `bin_sums`; NaN without voxels."""
    voxels = sums[:, 0].sum()
    return float(sums[:, 3].sum() / voxels) if voxels else math.nan


def expected_ml(probability: np.ndarray, grid: np.ndarray | Sequence[float]) -> float:
    """The expected volume in mL, the sum of all probabilities times the volume of a voxel.

    It needs no threshold, and is right on average if the probabilities are calibrated; where they
    are not, the small ones of millions of background voxels add up.

    Args:
        probability: (x, y, z).
        grid: affine (4, 4), or spacing in mm per axis.
    """
    return float(probability.sum(dtype=np.float64)) * voxel_mm3(grid) / 1000
