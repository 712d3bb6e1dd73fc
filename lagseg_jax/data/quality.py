"""Finds out what is wrong with the image and label of a case, and facts about them.

The same checks serve `python -m lagseg_jax.check` and the start of a training, which refuses a
dataset with errors.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lagseg_jax.config.choices import ALLOWED, SEVERITY
from lagseg_jax.data.cases import Case
from lagseg_jax.data.checks import CHECKS
from lagseg_jax.data.label_checks import LABEL_CHECKS, is_image, label_value
from lagseg_jax.imaging.dicom_label import placed
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.labels import (
    ONLY_VALUE,
    FractionalLabelError,
    LabelRule,
    atrium_mask,
    rounding,
)
from lagseg_jax.imaging.masks import volume_ml
from lagseg_jax.imaging.orientation import OrientationError
from lagseg_jax.imaging.reading import AS_STORED, Reading
from lagseg_jax.imaging.slices import field_mm, to_slices
from lagseg_jax.imaging.volume import (
    check_finite,
    check_same_geometry,
    check_same_shape,
    on_grid_of,
    parse_volume,
)
from lagseg_jax.runtime.errors import InputError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: "error" or "warning", a key of `SEVERITY`, and a sentence."""

    severity: str
    code: str
    case: str
    sentence: str


@dataclass(frozen=True)
class Inspection:
    """What is known of a case: numbers about it (JSON-serialisable), and its problems."""

    case: Case
    facts: dict[str, Any]
    problems: list[Problem]

    @property
    def usable(self) -> bool:
        """Whether image and mask could be read and share a grid."""
        return all(problem.code in ALLOWED for problem in self.problems)


class _Findings:
    """Collects the problems of one case."""

    def __init__(self, case: str):
        self.problems: list[Problem] = []
        self._case = case

    def add(self, code: str, sentence: str | None) -> None:
        if sentence:
            self.problems.append(Problem(SEVERITY[code], code, self._case, sentence))

    def attempt(self, code: str, function: Callable, *arguments: Any) -> Any:
        """What the function returns; None, and the problem noted, if it refuses the arguments."""
        try:
            return function(*arguments)
        except OrientationError as error:
            self.add("orientation", str(error))
        except FractionalLabelError as error:
            self.add("fractional_label", str(error))
        except InputError as error:
            self.add(code, str(error))
        return None


def inspect_case(
    case: Case, rule: LabelRule = ONLY_VALUE, reading: Reading = AS_STORED
) -> tuple[Inspection, Volume | None, Volume | None]:
    """Reads both files of a case once and applies every check.

    Args:
        case: with the label that it ought to have.
        rule: which voxels of a label are atrium.
        reading: what is told about the files.

    Returns:
        The inspection, the image and its uint8 mask with the image's affine; None for what could
        not be read.
    """
    found = _Findings(case.name)
    attempt, add = found.attempt, found.add
    image, label = _read(case, found, reading)
    mask = None
    if label is not None:
        if image is not None and is_image(image, label):
            add(
                "label_is_image",
                f"{label.path}: the label equals its image {image.path}, expected a mask.",
            )
        else:
            mask = attempt("label_values", atrium_mask, label, rule)
            add("rounded_label", rounding(label) if mask and not rule.threshold else None)
    if image is not None and label is not None:
        attempt("shape", check_same_shape, image, label)
        if image.array.shape == label.array.shape:
            attempt("geometry", check_same_geometry, image, label)
    if image is not None and mask is not None and Inspection(case, {}, found.problems).usable:
        mask = on_grid_of(image, mask, ("geometry",))  # whether it may be is said above
        for code, check in (CHECKS | LABEL_CHECKS).items():
            add(code, check(image, mask))
    facts = _facts(image, mask, reading.plane)
    if label is not None and mask is not None and mask.array.any() and not rule.threshold:
        facts["label_value"] = label_value(label, mask)
        if rule.merged:
            facts["merged"] = [v for v in rule.values if (np.round(label.array) == v).any()]
    return Inspection(case, facts, found.problems), image, mask


def _read(case: Case, found: _Findings, reading: Reading) -> tuple[Volume | None, Volume | None]:
    """Image and label, as far as they are there and can be read."""
    image = label = None
    if case.label is not None and case.label.is_file() and not os.path.lexists(case.image):
        found.add("missing_image", f"{case.label}: label without its image, expected {case.image}.")
    else:
        image = found.attempt("unreadable_image", parse_volume, case.image, reading)
    if case.label is None or not case.label.is_file():
        found.add("missing_label", f"{case.image}: image without its label, expected {case.label}.")
    else:
        label = found.attempt("unreadable_label", parse_volume, case.label, reading)
    if image is not None and label is not None:
        label = placed(label, image)
    for volume in (image, label):
        if volume is not None:
            found.attempt("not_finite", check_finite, volume)
    return image, label


def _facts(image: Volume | None, mask: Volume | None, plane: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if image is not None:
        slices, geometry = to_slices(image.array, image.affine, plane)
        facts |= {
            "shape": list(image.array.shape),
            "spacing_mm": [round(step, 6) for step in image.spacing],
            "plane": geometry.plane,
            "field_mm": field_mm(slices, geometry),
            "orientation": image.note,
            "dtype": str(image.array.dtype),
            "voxels_sha256": voxels_sha256(image),
        }
    if image is not None and mask is not None:
        facts["atrium_ml"] = volume_ml(mask.array, image.affine)
    return facts


def voxels_sha256(volume: Volume) -> str:
    """Hash of the decoded voxels, whatever the file format, data type, axis order and affine.

    Axes are ordered and turned by what they hold: a copy whose orientation was lost is a copy.
    """
    profiles = [_profile(volume.array, axis) for axis in range(3)]
    backwards = [profile[::-1] for profile in profiles]
    turned = tuple(slice(None, None, -1 if a > b else 1) for a, b in zip(profiles, backwards))
    keys = [(len(a), min(a, b)) for a, b in zip(profiles, backwards)]
    array = volume.array[turned].transpose(sorted(range(3), key=keys.__getitem__))
    digest = hashlib.sha256(str(array.shape).encode())
    for plane in array:
        digest.update(np.ascontiguousarray(plane, np.float32).data)
    return digest.hexdigest()


def _profile(array: np.ndarray, axis: int) -> list[float]:
    """The sums of all planes across an axis; exact for integers, whatever the order of voxels."""
    others = tuple(other for other in range(3) if other != axis)
    return array.sum(axis=others, dtype=np.float64).tolist()


def errors_of(problems: Iterable[Problem], allow: Sequence[str] = ()) -> list[Problem]:
    """The problems that forbid training; `allow` names codes of `ALLOWED` that do not."""
    return [p for p in problems if p.severity == "error" and p.code not in allow]
