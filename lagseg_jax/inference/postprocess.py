"""probability (x, y, z) -> the same, smoothed by a Gaussian across the slices.

Slices are predicted one by one, and nothing makes neighbours agree; in the plane the network has
seen the surroundings of every pixel, so that there is nothing to smooth.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from lagseg_jax.imaging.masks import clean_mask
from lagseg_jax.imaging.slices import from_slices, to_slices


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
    slices, geometry = to_slices(probability, affine, plane)
    # What the filter does to the unit vectors is its matrix; one product per row of the slices is
    # several times faster than the filter on the volume, whose lines lie apart in memory.
    unit = np.eye(len(slices))
    matrix = ndimage.gaussian_filter1d(unit, sigma_mm / geometry.spacing[0], 0, mode="nearest")
    matrix = matrix.astype(np.float32)
    smoothed = np.empty(slices.shape, np.float32)
    for row in range(slices.shape[1]):
        smoothed[:, row] = matrix @ slices[:, row]
    return from_slices(np.minimum(smoothed, 1, out=smoothed), geometry)  # rounding: 1 + 1e-7


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
