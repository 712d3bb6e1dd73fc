"""probabilities + truth of validation cases -> threshold, components and smoothing that suit best.

A setting is what turns the probability of a volume into its mask. All of the grid are scored from
one prediction per case.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lagseg_jax.components import bounding_box, clean_mask
from lagseg_jax.metrics import dice
from lagseg_jax.smoothing import smooth_across_slices

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
COMPONENTS = (1, 0)
SMOOTHING = (0.0, 0.5, 1.0, 2.0)  # in distances between slices


@dataclasses.dataclass(frozen=True)
class Setting:
    """Fields of `config.predict`.

    Attributes:
        threshold: of the probability.
        components: connected components kept, largest first; 0: all.
        smooth_mm: standard deviation of the Gaussian across the slices, in mm; 0: none.
    """

    threshold: float = 0.5
    components: int = 1
    smooth_mm: float = 0.0

    def __str__(self) -> str:
        kept = f"{self.components or 'all'} component{'s' * (self.components != 1)}"
        smooth = f"smoothed by {self.smooth_mm:g} mm" if self.smooth_mm else "not smoothed"
        return f"threshold {self.threshold:g}, {kept}, {smooth}"

    def fields(self) -> list[str]:
        """As arguments of `lagseg_jax.main`."""
        values = dataclasses.asdict(self).items()
        return [f"--config.predict.{name}={value:g}" for name, value in values]

    def mask(self, smoothed: np.ndarray) -> np.ndarray:
        """The mask (x, y, z), uint8, of a probability that is smoothed already."""
        mask = (smoothed >= self.threshold).view(np.uint8)
        return clean_mask(mask, (1, 1, 1), self.components)  # the size in mm3 decides nothing


DEFAULT = Setting()  # of configs/default.py


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
    probability: np.ndarray, truth: np.ndarray, affine: np.ndarray, settings: Iterable[Setting]
) -> dict[Setting, float]:
    """The 3D Dice of one case with every setting.

    Args:
        probability: (x, y, z) float32, not smoothed.
        truth: (x, y, z), non-zero inside.
        affine: (4, 4), voxel index -> mm.
        settings: to try.
    """
    settings = list(settings)
    scores: dict[Setting, float] = {}
    for smooth_mm in {setting.smooth_mm for setting in settings}:
        some = [setting for setting in settings if setting.smooth_mm == smooth_mm]
        smoothed = smooth_across_slices(probability, affine, smooth_mm)
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
