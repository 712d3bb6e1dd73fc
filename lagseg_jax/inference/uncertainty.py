"""Estimates how good a mask is, and how large the atrium may be, from the model's probabilities.

An estimate is calibrated on the validation cases of a run, and is given for cases like those that
the run was trained on.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import stdtrit

from lagseg_jax.imaging.masks import bounding_box

BAND = 7 / 3  # of the odds around the threshold
LEVEL = 0.9  # of the interval of the volume
SURE = 0.999  # no case is taken to be surer, nor less sure than 1 - SURE: logarithms end there
LOW_DICE = 0.8  # below it, a mask is to be looked at
UNLIKE = "unlike_training"
COLUMNS = {
    "estimated_dice": "from the probabilities, as calibrated on the validation cases of the run",
    "volume_low_ml": f"mL, lower end of the interval that has the true volume in {LEVEL:.0%}",
    "volume_high_ml": "mL, upper end of it",
    UNLIKE: "in what the case differs from all training cases; it then has no estimates",
}


def stability(probability: np.ndarray, mask: np.ndarray, threshold: float, axis: int) -> float:
    """How little a mask would change with another threshold: 1, not at all.

    The Dice of what is there at a low threshold and what of the mask is left at a high one. Their
    odds are those of the threshold, divided and multiplied by `BAND`: 0.3 and 0.7 for 0.5. It is
    the stability score of Kirillov et al. 2023 (arXiv 2304.02643), with Dice instead of IoU. The
    mean probability of an ensemble, or of mirrorings, is flatter where the members disagree, which
    lowers it.

    Args:
        probability: (x, y, z), 0..1.
        mask: (x, y, z), non-zero inside.
        threshold: that made the mask.
        axis: across the slices; the slices of the mask and the next ones on both sides count, since
            others may not have been computed.

    Returns:
        0..1; 0 for an empty mask.
    """
    inside = bounding_box(mask)[axis]
    near = slice(max(0, inside.start - 1), inside.stop + 1)
    box = tuple(near if a == axis else slice(None) for a in range(3))
    odds = threshold / (1 - threshold)
    low, high = (o / (1 + o) for o in (odds / BAND, odds * BAND))
    larger = int(np.count_nonzero(probability[box] >= low))
    smaller = int(np.count_nonzero((probability[box] >= high) & (mask[box] != 0)))
    return 2 * smaller / (larger + smaller) if smaller else 0.0


def log_odds(share: float) -> float:
    """log(share / (1 - share)), with the share kept off 0 and 1 by 1 - SURE."""
    share = min(max(share, 1 - SURE), SURE)
    return math.log(share / (1 - share))


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """What the validation cases say about masks of a run, in two numbers.

    Attributes:
        step: of the checkpoint that made their masks.
        cases: n, how many they are.
        shift: median of log odds(Dice) - log odds(stability).
        volume_error: root mean square of log(true volume / volume of the mask) / (1 - stability).
    """

    step: int
    cases: int
    shift: float
    volume_error: float

    def dice(self, stable: float) -> float:
        """The Dice that a stability stands for: its odds times exp(shift); 0 and 1 stay."""
        odds = stable * math.exp(self.shift)
        return odds / (odds + 1 - stable)

    def volume_interval(self, volume: float, stable: float) -> tuple[float, float]:
        """Where the true volume lies with probability `LEVEL`, as low and high, in the unit given.

        If log(true volume / volume) / (1 - stability) is normally distributed around 0, then that
        of a further case, divided by the root mean square of n others, has Student's t distribution
        of n degrees of freedom: few validation cases give a wide interval, not a wrong one.
        """
        spread = self.volume_error * max(1 - stable, 1 - SURE)
        far = float(stdtrit(self.cases, (1 + LEVEL) / 2)) * spread
        factor = math.exp(min(far, 20.0))
        return volume / factor, volume * factor


def estimate_line(row: Mapping[str, Any]) -> str:
    """The estimates of a case in words, after its other numbers; "" without any."""
    if row.get("estimated_dice") is None:
        return ""
    low, high = row["volume_low_ml"], row["volume_high_ml"]
    return f", estimated Dice {row['estimated_dice']:.2f}, {LEVEL:.0%}: {low:.1f} to {high:.1f} mL"


def estimate_warnings(row: Mapping[str, Any]) -> list[str]:
    """What the estimates of a case warn of."""
    if row.get(UNLIKE):
        return [f"unlike the training cases in {row[UNLIKE]}: nothing is estimated"]
    estimate = row.get("estimated_dice")
    if estimate is None or not estimate < LOW_DICE:
        return []
    return [f"the estimated Dice is below {LOW_DICE:g}"]
