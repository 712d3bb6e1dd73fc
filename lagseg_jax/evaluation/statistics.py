"""Statistics over cases: bootstrap interval, Wilcoxon test, agreement of volumes and estimates."""

import math
from collections.abc import Sequence

import numpy as np

Values = Sequence[float | None] | np.ndarray
SMALLEST_TEST = 6  # with fewer pairs no outcome can reach p < 0.05 (5 pairs: 0.0625 at best)


def mean_and_sd(values: Values) -> tuple[float, float]:
    """Mean and standard deviation (ddof 1) of the values that are there.

    Returns:
      Both in the unit of the values; NaN without values, and the SD also for a single one.
    """
    finite = _finite(values)
    mean = float(finite.mean()) if finite.size else math.nan
    return mean, float(finite.std(ddof=1)) if finite.size > 1 else math.nan


def bootstrap_interval(
    values: Values, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron & Tibshirani 1993, chapter 13).

    Cases are drawn with replacement. Below about ten cases such an interval is too narrow, and
    below three it says nothing: callers mark it.

    Args:
      values: one per case; NaN and None are left out.
      confidence: part of the bootstrap distribution that lies inside, 0..1.
      resamples: number of draws.
      seed: of the draws, so that a table is the same when it is made again.

    Returns:
      (low, high) in the unit of the values; both NaN without values, both the value for one.
    """
    finite = _finite(values)
    if not finite.size:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(finite.size, size=(resamples, finite.size))
    tail = (1 - confidence) / 2
    low, high = np.quantile(finite[drawn].mean(axis=1), (tail, 1 - tail))
    return float(low), float(high)


def paired_wilcoxon(a: Values, b: Values) -> float:
    """Two-sided Wilcoxon signed-rank test of the differences a - b (Wilcoxon 1945).

    Args:
      a: one value per case.
      b: of the same cases in the same order; a pair with a NaN or None in it is left out.

    Returns:
      The p value, exact for small tables; NaN with fewer than 6 pairs or if no pair differs.

    Raises:
      ValueError: `a` and `b` differ in length.
    """
    difference = _paired(a, b)
    difference = difference[np.isfinite(difference)]
    if difference.size < SMALLEST_TEST or not difference.any():
        return math.nan
    from scipy.stats import wilcoxon  # late: it takes as long to load as jax

    return float(wilcoxon(difference).pvalue)


def bland_altman(truth_ml: Values, prediction_ml: Values) -> dict[str, float]:
    """Bias and 95 % limits of agreement of two measurements of a volume (Bland & Altman 1986).

    Args:
      truth_ml: volume in mL, one per case.
      prediction_ml: of the same cases in the same order; pairs with a NaN or None are left out.

    Returns:
      `bias`, the mean of prediction - truth, and `low` and `high`, bias -+ 1.96 SD (ddof 1), in
      mL. NaN where there are too few pairs: one for the bias, two for the limits.

    Raises:
      ValueError: `truth_ml` and `prediction_ml` differ in length.
    """
    difference = _paired(prediction_ml, truth_ml)
    bias, sd = mean_and_sd(difference)
    return {"bias": bias, "low": bias - 1.96 * sd, "high": bias + 1.96 * sd}


def estimate_agreement(
    estimated_dice: np.ndarray,
    dice_found: np.ndarray,
    truth_ml: np.ndarray,
    interval_ml: Sequence[np.ndarray],
) -> dict[str, float | int]:
    """How well estimates agree with the truth.

    Args:
        estimated_dice: (cases,), NaN where there is no estimate.
        dice_found: (cases,).
        truth_ml: (cases,).
        interval_ml: low and high, (cases,) each.

    Returns:
        `n`, the cases with an estimate, and of these: `mean_error` of the estimated Dice (estimate
        - truth) and `mean_absolute_error`; `pearson` and `spearman`, its correlation with the
        true Dice, NaN for fewer than 3 cases or equal ones; `covered`, how many true volumes lie in
        their intervals.
    """
    from scipy.stats import rankdata  # late: it takes half a second

    known = np.isfinite(estimated_dice) & np.isfinite(dice_found)
    estimate, found, truth = estimated_dice[known], dice_found[known], truth_ml[known]
    low, high = (bound[known] for bound in interval_ml)
    errors = estimate - found
    return {
        "n": int(known.sum()),
        "mean_error": float(errors.mean()) if errors.size else math.nan,
        "mean_absolute_error": float(np.abs(errors).mean()) if errors.size else math.nan,
        "pearson": _correlation(estimate, found),
        "spearman": _correlation(rankdata(estimate), rankdata(found)),
        "covered": int(((low <= truth) & (truth <= high)).sum()),
    }


def _finite(values: Values) -> np.ndarray:
    numbers = np.asarray(values, float)  # None becomes NaN
    return numbers[np.isfinite(numbers)]


def _paired(a: Values, b: Values) -> np.ndarray:
    """a - b per case, NaN where either is missing."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values, expected one pair per case")
    return np.asarray(a, float) - np.asarray(b, float)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if a.size < 3 or not np.ptp(a) or not np.ptp(b):
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])
