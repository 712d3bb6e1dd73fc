"""Turns the probability of a volume into its mask: smoothing, threshold, components.

Slices are predicted one by one, and nothing makes neighbours agree, which smoothing across them
does. In the plane the network has seen the surroundings of every pixel.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from lagseg_jax.imaging.masks import clean_mask
from lagseg_jax.imaging.slices import to_slices


def smooth_across_slices(
    probability: np.ndarray, affine: np.ndarray, sigma_mm: float, plane: str = ""
) -> np.ndarray:
    """Convolves every line through the slices with a Gaussian, cut off at 4 sigma.

    Beyond the first and the last slice these repeat: an atrium that the field of view cuts off
    does not fade there.

    Args:
        probability: (x, y, z), float32.
        affine: (4, 4), voxel index -> mm; it says which axis is the through-plane one, as in
            `slices.to_slices`, and its spacing.
        sigma_mm: standard deviation in mm, at right angles to the slices; 0 changes nothing.
        plane: of the slices, as in `slices.to_slices`.

    Returns:
        (x, y, z) float32, 0..1; `probability` itself where sigma is 0.
    """
    if not sigma_mm:
        return probability
    _, geometry = to_slices(probability, affine, plane)
    sigma = sigma_mm / geometry.spacing[0]
    smoothed = ndimage.gaussian_filter1d(probability, sigma, geometry.volume_axis, mode="nearest")
    return np.minimum(smoothed, 1, out=smoothed)  # rounding: 1 + 1e-7


@dataclasses.dataclass(frozen=True)
class PostProcessing:
    """What turns the probability of a volume into its mask.

    Attributes:
        threshold: of the probability.
        components: connected components kept, largest first; 0: all.
        smooth_mm: standard deviation of the Gaussian across the slices, in mm; 0: none.
        min_mm3: components smaller than this go, in mm3; the only one that is no field of
            `config.predict`.
    """

    threshold: float = 0.5
    components: int = 1
    smooth_mm: float = 0.0
    min_mm3: float = 0.0

    @classmethod
    def of(cls, predict: Mapping[str, Any]) -> "PostProcessing":
        """As `config.predict` says."""
        return cls(predict["threshold"], predict["components"], predict["smooth_mm"])

    def __str__(self) -> str:
        kept = f"{self.components or 'all'} component{'s' * (self.components != 1)}"
        smooth = f"smoothed by {self.smooth_mm:g} mm" if self.smooth_mm else "not smoothed"
        return f"threshold {self.threshold:g}, {kept}, {smooth}"

    def fields(self) -> dict[str, float]:
        """The fields of `config.predict` that say the same."""
        fields = dataclasses.asdict(self)
        del fields["min_mm3"]
        return fields

    def flags(self) -> list[str]:
        """The same fields as arguments of `lagseg_jax.main`."""
        return [f"--config.predict.{name}={value:g}" for name, value in self.fields().items()]

    def mask(self, smoothed: np.ndarray, grid: np.ndarray | Sequence[float]) -> np.ndarray:
        """The mask (x, y, z), uint8, of a probability that is smoothed already."""
        return self.clean((smoothed >= self.threshold).view(np.uint8), grid)

    def clean(self, mask: np.ndarray, grid: np.ndarray | Sequence[float]) -> np.ndarray:
        """The mask (x, y, z) without the components that go; `grid` as in `clean_mask`."""
        return clean_mask(mask, grid, self.components, self.min_mm3)


DEFAULT = PostProcessing()  # of configs/default.py
