"""Reads a label file as the mask of the atrium, whatever value it is written with."""

import logging
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from lagseg_jax.imaging.dicom_label import placed
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.reading import AS_STORED, Reading
from lagseg_jax.imaging.volume import on_grid_of, read_volume
from lagseg_jax.runtime.errors import InputError

log = logging.getLogger(__name__)

WHOLE = 1e-3  # values this near to a whole number are meant to be it
MANY = 20  # values; more are no structures but grades
GRADED = 10  # values around a structure that only interpolation leaves there


@dataclass(frozen=True)
class LabelRule:
    """Which voxels of a label are atrium.

    Attributes:
        value: of the atrium, or several whose union it is (cavity and wall); 0 for the only value
            that is not zero.
        threshold: above 0, the atrium is where the label is at least this, and `value` is unused.
        option: how the names of the options that set these two begin, for messages.
    """

    value: int | tuple[int, ...] = 0
    threshold: float = 0.0
    option: str = "config.data.label_"

    @property
    def values(self) -> tuple[int, ...]:
        """Of the atrium; () for the only one that is not zero."""
        several = self.value if isinstance(self.value, tuple) else (self.value,)
        return tuple(value for value in several if value)

    @property
    def merged(self) -> str | None:
        """What is to be said where several values become one mask."""
        if len(self.values) < 2:
            return None
        listed = ", ".join(map(str, self.values[:-1]))
        return f"label values {listed} and {self.values[-1]} are merged into one mask"

    @classmethod
    def given(cls, options: Namespace, name: str) -> "LabelRule":
        """The rule of a command's options --NAME_value and --NAME_threshold.

        Raises:
            InputError: both are given, or the threshold is not a number above 0.
        """
        value, threshold = (getattr(options, f"{name}_{part}") for part in ("value", "threshold"))
        if not 0 <= threshold < np.inf or (value and threshold):
            raise InputError(
                f"--{name}_value is {value} and --{name}_threshold is {threshold:g}, expected one "
                "of them, above 0"
            )
        return cls(value, threshold, f"--{name}_")


ONLY_VALUE = LabelRule()


class FractionalLabelError(InputError):
    """The values of a label are no whole numbers."""


def read_label(
    path: str | Path, rule: LabelRule = ONLY_VALUE, reading: Reading = AS_STORED
) -> Volume:
    """`read_volume` and `mask_and_say`."""
    return mask_and_say(read_volume(path, reading), rule)


def mask_and_say(volume: Volume, rule: LabelRule = ONLY_VALUE) -> Volume:
    """`atrium_mask`; what was rounded is logged."""
    if not rule.threshold and (said := rounding(volume)):
        log.warning("%s", said)
    return atrium_mask(volume, rule)


def read_image_and_label(
    image: str | Path, label: str | Path, rule: LabelRule = ONLY_VALUE, reading: Reading = AS_STORED
) -> tuple[Volume, Volume]:
    """Reads a labelled case: `read_volume`, `read_label` and `on_grid_of`."""
    read = read_volume(image, reading)
    mask = placed(read_label(label, rule, reading), read)
    return read, on_grid_of(read, mask, reading.allow)


def atrium_mask(volume: Volume, rule: LabelRule = ONLY_VALUE) -> Volume:
    """A label as a uint8 mask (x, y, z) of 0 and 1.

    Data sets write the atrium as 1, 255 or 420, so its value is the only non-zero one, or else that
    of the rule. Values within `WHOLE` of a whole number are rounded. An all-zero label is an empty
    mask.

    Raises:
        FractionalLabelError: values that are no whole numbers, or grades around the atrium.
        InputError: several non-zero values and no rule, or a rule that no voxel follows.
    """
    if rule.threshold:
        return replace(volume, array=_at_least(volume, rule).astype(np.uint8))
    array, deviation = _rounded(volume.array)
    values = np.unique(array[array != 0])
    listed = ", ".join(f"{value:g}" for value in values[:10]) + ", ..." * (len(values) > 10)
    if deviation > WHOLE:
        found = np.unique(volume.array[np.abs(volume.array - array) > WHOLE])
        listed = ", ".join(f"{value:g}" for value in found[:3])
        raise _fractional(volume, f"such as {listed} ({len(found)} different ones)", rule)
    if not rule.values and len(values) > MANY:
        raise _fractional(volume, f"{listed} ({len(values)} different ones)", rule)
    if not rule.values and len(values) > 1:
        raise InputError(
            f"{volume.path}: the label has the non-zero values {listed}, expected exactly one; "
            f"name the atrium's with {rule.option}value, several as (1,2)."
        )
    if rule.values and len(values) and not set(rule.values) & set(values.tolist()):
        raise InputError(
            f"{volume.path}: the label has the non-zero values {listed}, expected "
            f"{rule.option}value={rule.value} among them."
        )
    mask = np.isin(array, rule.values) if rule.values else array != 0
    if len(values) > MANY and _is_graded(array, mask):
        raise _fractional(volume, f"{len(values)} grades around {rule.value}", rule)
    return replace(volume, array=mask.astype(np.uint8))


def rounding(volume: Volume) -> str | None:
    """What is to be said of values that are nearly whole numbers; None where all of them are."""
    _, deviation = _rounded(volume.array)
    if not 0 < deviation <= WHOLE:
        return None
    return (
        f"{volume.path}: label with values up to {deviation:.1g} from whole numbers found, "
        "rounded, expected whole numbers."
    )


def is_without(volume: Volume, rule: LabelRule) -> bool:
    """Whether no voxel of a label, of whole numbers or with a threshold, follows the rule."""
    if rule.threshold:
        return not (volume.array >= rule.threshold).any()
    array, deviation = _rounded(volume.array)
    return bool(rule.values and deviation <= WHOLE and not np.isin(array, rule.values).any())


def parse_values(text: str) -> int | tuple[int, ...]:
    """The value of an option such as --label_value: 420, or several, 1,2 or (1,2).

    Raises:
        ValueError: it is neither, or a value of several is not above 0.
    """
    values = tuple(int(value) for value in text.strip("()").split(",") if value.strip())
    if not values or min(values) < (len(values) > 1):
        raise ValueError(text)
    return values if len(values) > 1 else values[0]


def _rounded(array: np.ndarray) -> tuple[np.ndarray, float]:
    """The array with whole numbers, and the largest change; NaN and infinity are left alone."""
    if array.dtype.kind in "bui":
        return array, 0.0
    rounded = np.round(array)
    with np.errstate(invalid="ignore"):
        deviation = np.abs(array - rounded)
    return rounded, float(np.nanmax(deviation, initial=0.0))


def _at_least(volume: Volume, rule: LabelRule) -> np.ndarray:
    mask = volume.array >= rule.threshold
    if not mask.any() and volume.array.any():
        raise InputError(
            f"{volume.path}: the largest value of the label is {volume.array.max():g}, expected at "
            f"least {rule.option}threshold={rule.threshold:g} in the atrium."
        )
    return mask


def _is_graded(array: np.ndarray, mask: np.ndarray) -> bool:
    """Whether the structure ends in many values and not in the background, as interpolated ones."""
    around = array[ndimage.binary_dilation(mask) & ~mask]
    return len(np.unique(around)) > GRADED and np.count_nonzero(around) > 0.9 * around.size


def _fractional(volume: Volume, found: str, rule: LabelRule) -> FractionalLabelError:
    return FractionalLabelError(
        f"{volume.path}: label with values {found} found, expected whole numbers, one for each "
        "structure; resample it again with nearest neighbour, or take what is at least a value "
        f"with {rule.option}threshold."
    )
