"""Estimates Dice and volume of cases that are like the training cases, and tells which are not."""

import dataclasses
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from lagseg_jax.imaging.appearance import appearance
from lagseg_jax.imaging.grey_values import grey_range, normalise
from lagseg_jax.imaging.masks import volume_ml
from lagseg_jax.imaging.slices import field_mm, network_masks, resize_matrices, to_slices
from lagseg_jax.inference.uncertainty import COLUMNS, UNLIKE, Uncertainty, stability
from lagseg_jax.inference.uncertainty_record import read_uncertainty, record_path
from lagseg_jax.runs.training_range import FIELD, read_training_range, unlike_training
from lagseg_jax.runtime.console import count_of

log = logging.getLogger(__name__)

EVALUATE = "lagseg_jax.main --mode=evaluate"
CALIBRATE = "lagseg_jax.calibrate --estimates"
FEW = 5  # validation cases; with fewer, estimates are said to rest on few


@dataclasses.dataclass(frozen=True)
class Estimator:
    """Estimates for the cases of one run.

    Attributes:
        uncertainty: of the run.
        trained: numbers of its training cases, see `training_range`.
        data: `config.data` of the run.
        plane: of the slices, as in `slices.to_slices`.
    """

    uncertainty: Uncertainty
    trained: Mapping[str, Sequence[float]]
    data: ml_collections.ConfigDict
    plane: str = ""

    @classmethod
    def of(
        cls,
        workdirs: Sequence[str | Path],
        tta: bool,
        step: int,
        data: ml_collections.ConfigDict,
        plane: str,
    ) -> "Estimator | None":
        """That of a run or an ensemble, where it was measured for just these and mirrorings.

        Args:
            workdirs: of the runs.
            tta: whether mirrorings are averaged.
            step: of the first run's model.
            data: `config.data` of the first run.
            plane: of the slices.

        Returns:
            None, with a warning, where it was not.

        Raises:
            InputError: the record in the first workdir is damaged.
        """
        first, found = Path(workdirs[0]), read_uncertainty(record_path(workdirs, tta))
        alone = len(workdirs) == 1 and not tta
        command = f"{CALIBRATE} {shlex.join(map(str, workdirs))}{' --tta' * tta}"
        if found is None or found.step != step:
            why = f"{first} has no evaluation of step {step}, which {EVALUATE} makes"
            why = why if alone else f"{command} measures them"
            log.warning("no estimates of Dice and volume: %s", why)
            return None
        few = "" if found.cases >= FEW else ": few"
        cases = count_of(found.cases, "validation case")
        log.info("estimates: calibrated on %s%s", cases, few)
        return cls(found, read_training_range(first), data, plane)

    def columns(
        self,
        image: np.ndarray,
        affine: np.ndarray,
        mask: np.ndarray,
        probability: np.ndarray,
        threshold: float,
    ) -> dict[str, Any]:
        """The values of `COLUMNS` for one case.

        Args:
            image: (x, y, z), grey values as stored.
            affine: (4, 4), voxel index -> mm.
            mask: (x, y, z), non-zero inside.
            probability: (x, y, z), of which it was made.
            threshold: with which.

        Returns:
            Estimates of None for an empty mask, and for a case that `unlike_training` says how it
            differs from all training cases: the validation cases say nothing about it.
        """
        row: dict[str, Any] = dict.fromkeys(COLUMNS) | {UNLIKE: ""}
        if not mask.any():
            return row
        volume = volume_ml(mask, affine)
        numbers = case_numbers(image, affine, mask, self.data, self.plane)
        row[UNLIKE] = ", ".join(unlike_training(numbers, self.trained))
        if row[UNLIKE]:
            return row
        axis = to_slices(mask, affine, self.plane)[1].volume_axis
        stable = stability(probability, mask, threshold, axis)
        low, high = self.uncertainty.volume_interval(volume, stable)
        estimate = self.uncertainty.dice(stable)
        return row | {"estimated_dice": estimate, "volume_low_ml": low, "volume_high_ml": high}


def case_numbers(
    image: np.ndarray,
    affine: np.ndarray,
    mask: np.ndarray,
    data: ml_collections.ConfigDict,
    plane: str,
) -> dict[str, float]:
    """Those of a training case in `training_range`, of a case that was predicted."""
    slices, geometry = to_slices(image, affine, plane)
    inside, _ = to_slices(mask, affine, plane)
    shows = inside.any(axis=(1, 2))
    grey = grey_range(slices, tuple(data.clip_percentiles), tuple(data.window))
    rows, columns = resize_matrices(slices.shape[1], slices.shape[2], data.image_size)
    images = rows @ normalise(slices[shows], grey) @ columns.T
    masks = network_masks(inside[shows], data.image_size)
    found = {"volume_ml": volume_ml(mask, affine), **appearance(images, masks)}
    return found | {FIELD: field_mm(slices, geometry)}
