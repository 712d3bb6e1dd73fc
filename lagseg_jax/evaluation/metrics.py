"""masks (x, y, z) of truth and prediction + affine -> Dice, IoU, distances in mm, volumes in mL.

The empty cases, the same everywhere: both masks empty, Dice = IoU = 1; one empty, Dice = IoU = 0;
distances are NaN in both cases, which `summarise` counts and never averages as 0.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from lagseg_jax.evaluation.statistics import mean_and_sd
from lagseg_jax.imaging.grid import directions
from lagseg_jax.imaging.masks import bounding_box, volume_ml
from lagseg_jax.runtime.files import without_nan

DIGITS = {"dice": 4, "iou": 4, "hd95_mm": 2, "assd_mm": 2, "volume_error_ml": 1}  # for people
METRICS = (
    "dice",
    "iou",
    "hd95_mm",
    "assd_mm",
    "truth_ml",
    "prediction_ml",
    "volume_error_ml",
    "slice_dice",
    "slice_iou",
)


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Dice = 2 |T and P| / (|T| + |P|) of two masks of one shape; 1 when both are empty."""
    truth, prediction = _masks(truth, prediction)
    total = np.count_nonzero(truth) + np.count_nonzero(prediction)
    return 2 * np.count_nonzero(truth & prediction) / total if total else 1.0


def iou(truth: np.ndarray, prediction: np.ndarray) -> float:
    """IoU = |T and P| / |T or P| of two masks of one shape; 1 when both are empty."""
    truth, prediction = _masks(truth, prediction)
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def surface_distances(
    truth: np.ndarray, prediction: np.ndarray, grid: np.ndarray | Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm from every surface voxel of one mask to the nearest one of the other.

    A surface voxel is a mask voxel with at least one of its 6 neighbours outside the mask, beyond
    the border of the array counting as outside. Distances are between voxel centres, and every
    surface voxel weighs the same: the definition of MONAI's metrics, which give the same numbers
    if told the spacing (their default is 1, that is voxels). DeepMind's surface-distance instead
    puts the surface half-way between voxel centres and weighs its elements by their area in mm2,
    so that its distances differ from these by up to about one voxel.

    Args:
      truth: (x, y, z), non-zero inside.
      prediction: (x, y, z), non-zero inside.
      grid: affine (4, 4) voxel index -> mm, whose axes may be sheared; or spacing in mm per axis.

    Returns:
      float64 (surface voxels of truth,) from truth to prediction, and (surface voxels of
      prediction,) from prediction to truth; both have length 0 if either mask is empty.

    Raises:
      ValueError: the shapes differ, are not 3-D, or the grid is no geometry.
    """
    truth, prediction = _masks(truth, prediction)
    axes = directions(grid)
    if not truth.any() or not prediction.any():
        return np.empty(0), np.empty(0)
    # A k-d tree is exact like a distance transform, and stays fast when one stray voxel at the far
    # end of the volume makes the box that the transform would have to fill as large as the volume.
    truth_points = _surface_voxels(truth) @ axes.T
    prediction_points = _surface_voxels(prediction) @ axes.T
    from scipy.spatial import KDTree  # late: what only lists metrics starts without

    to_prediction, _ = KDTree(prediction_points).query(truth_points)
    to_truth, _ = KDTree(truth_points).query(prediction_points)
    return to_prediction, to_truth


def hd95(truth_to_prediction: np.ndarray, prediction_to_truth: np.ndarray) -> float:
    """95 % Hausdorff distance in mm: the larger of the two directed 95th percentiles.

    Takes the pair that `surface_distances` returns; percentiles interpolate linearly. NaN if
    either mask is empty.
    """
    if not truth_to_prediction.size or not prediction_to_truth.size:
        return math.nan
    return float(
        max(np.percentile(truth_to_prediction, 95), np.percentile(prediction_to_truth, 95))
    )


def assd(truth_to_prediction: np.ndarray, prediction_to_truth: np.ndarray) -> float:
    """Average symmetric surface distance in mm: both sums over both numbers of surface voxels.

    Takes the pair that `surface_distances` returns. NaN if either mask is empty.
    """
    if not truth_to_prediction.size or not prediction_to_truth.size:
        return math.nan
    return float(np.concatenate([truth_to_prediction, prediction_to_truth]).mean())


def slice_metrics(truth: np.ndarray, prediction: np.ndarray, axis: int = 2) -> dict[str, float]:
    """Dice and IoU per slice, averaged over the slices where truth or prediction is non-empty.

    This is what papers on 2-D networks tend to report. It is lower than the volume's Dice, since
    the small end slices weigh as much as the large ones.

    Args:
      truth: (x, y, z), non-zero inside.
      prediction: (x, y, z), non-zero inside.
      axis: the through-plane axis.

    Returns:
      `slice_dice` and `slice_iou`, both NaN if every slice is empty in both masks.
    """
    truth, prediction = _masks(truth, prediction)
    in_plane = tuple(other for other in range(3) if other != axis % 3)
    total = truth.sum(in_plane) + prediction.sum(in_plane)
    overlap = (truth & prediction).sum(in_plane)[total > 0]
    total = total[total > 0]
    if not total.size:
        return {"slice_dice": math.nan, "slice_iou": math.nan}
    return {
        "slice_dice": float(np.mean(2 * overlap / total)),
        "slice_iou": float(np.mean(overlap / (total - overlap))),
    }


def case_metrics(
    truth: np.ndarray, prediction: np.ndarray, grid: np.ndarray | Sequence[float], axis: int = 2
) -> dict[str, float]:
    """Every number of `METRICS` for one case, in the grid of the arrays.

    Args:
      truth: (x, y, z), non-zero inside.
      prediction: (x, y, z), non-zero inside.
      grid: affine (4, 4) voxel index -> mm, whose axes may be sheared; or spacing in mm per axis.
      axis: the through-plane axis, for the per-slice numbers.

    Returns:
      `dice`, `iou`, `hd95_mm`, `assd_mm`, `truth_ml`, `prediction_ml`, `volume_error_ml`
      (prediction - truth), `slice_dice`, `slice_iou`.

    Raises:
      ValueError: the shapes differ, are not 3-D, or the grid is no geometry.
    """
    distances = surface_distances(truth, prediction, grid)
    truth_ml, prediction_ml = volume_ml(truth, grid), volume_ml(prediction, grid)
    return {
        "dice": dice(truth, prediction),
        "iou": iou(truth, prediction),
        "hd95_mm": hd95(*distances),
        "assd_mm": assd(*distances),
        "truth_ml": truth_ml,
        "prediction_ml": prediction_ml,
        "volume_error_ml": prediction_ml - truth_ml,
        **slice_metrics(truth, prediction, axis),
    }


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of `case_metrics` -> mean, SD and n per metric, counts, and a check of Dice against IoU.

    IoU = D / (2 - D) is convex in Dice, so by Jensen's inequality the mean IoU of any table of hard
    masks is at least D / (2 - D) of its mean Dice. A table that breaks this mixes two kinds of
    averages; `dice_iou_check` says so for the volumes and for the slices.

    Args:
      rows: one mapping per case; keys other than `METRICS` (`case`, ...) are ignored, NaN and None
        are left out of the mean of their metric.

    Returns:
      {metric: {"mean", "sd" (ddof 1, None below two cases), "n"}, "n_cases", "n_empty_truth",
      "n_empty_prediction", "n_distances_excluded", "dice_iou_check": {"volume", "slice":
      {"floor", "found", "consistent"}}}, JSON-serialisable: None instead of NaN.
    """
    columns = {name: _finite(row.get(name) for row in rows) for name in METRICS}
    summary: dict[str, Any] = {name: _mean_sd_n(values) for name, values in columns.items()}
    return summary | {
        "n_cases": len(rows),
        "n_empty_truth": columns["truth_ml"].count(0.0),
        "n_empty_prediction": columns["prediction_ml"].count(0.0),
        "n_distances_excluded": len(rows) - len(columns["hd95_mm"]),
        "dice_iou_check": {
            "volume": _dice_iou_check(columns["dice"], columns["iou"]),
            "slice": _dice_iou_check(columns["slice_dice"], columns["slice_iou"]),
        },
    }


def _masks(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if truth.shape != prediction.shape or truth.ndim != 3:
        raise ValueError(
            f"truth has shape {truth.shape} and prediction {prediction.shape}, "
            "expected two masks of one 3-D shape"
        )
    return truth != 0, prediction != 0


def _surface_voxels(mask: np.ndarray) -> np.ndarray:
    """Mask (x, y, z), not empty -> indices (surface voxels, 3), C order."""
    box = bounding_box(mask)
    # Beyond the box there is only background, which is what the erosion takes its border to be.
    inside = ndimage.binary_erosion(mask[box], ndimage.generate_binary_structure(3, 1))
    return np.argwhere(mask[box] & ~inside) + [part.start for part in box]


def _finite(values: Iterable[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def _mean_sd_n(values: list[float]) -> dict[str, float | int | None]:
    mean, sd = mean_and_sd(values)
    return without_nan({"mean": mean, "sd": sd, "n": len(values)})


def _dice_iou_check(dices: list[float], ious: list[float]) -> dict[str, float | bool | None]:
    if not dices or not ious:
        return {"floor": None, "found": None, "consistent": None}
    mean_dice, found = float(np.mean(dices)), float(np.mean(ious))
    floor = mean_dice / (2 - mean_dice)
    return {"floor": floor, "found": found, "consistent": found >= floor - 1e-9}
