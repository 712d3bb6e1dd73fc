"""Finds out what is wrong with the image and label of a case, and facts about them.

The same checks serve `python -m lagseg_jax.check` and the start of a training, which refuses a
dataset with errors.
"""

import filecmp
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lagseg_jax.config.choices import ALLOWED, SEVERITY
from lagseg_jax.data.checks import CHECKS
from lagseg_jax.data.layouts import Case, Dataset
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.masks import volume_ml
from lagseg_jax.imaging.orientation import OrientationError
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.volume import (
    MAX_BYTES,
    atrium_mask,
    check_finite,
    check_same_geometry,
    check_same_shape,
    on_grid_of,
    parse_volume,
    to_canonical,
)
from lagseg_jax.runtime.console import in_parallel
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

    def attempt(self, code: str, function: Callable, *arguments):
        """What the function returns; None, and the problem noted, if it refuses the arguments."""
        try:
            return function(*arguments)
        except OrientationError as error:
            self.add("orientation", str(error))
        except InputError as error:
            self.add(code, str(error))
        return None


def inspect_case(
    case: Case,
    label_value: int | None = None,
    max_bytes: int = MAX_BYTES,
    orientation: str = "",
    plane: str = "",
) -> tuple[Inspection, Volume | None, Volume | None]:
    """Reads both files of a case once and applies every check.

    Args:
        case: with the label that it ought to have.
        label_value: of the atrium; None for the only non-zero value.
        max_bytes: of voxels in one file.
        orientation: of files that do not say it, as in `parse_volume`.
        plane: of the slices, as in `to_slices`.

    Returns:
        The inspection, the image and its uint8 mask with the image's affine; None for what could
        not be read.
    """
    found = _Findings(case.name)
    attempt, add = found.attempt, found.add
    image = attempt("unreadable_image", parse_volume, case.image, max_bytes, orientation)
    label = mask = None
    if case.label is None or not case.label.is_file():
        add("missing_label", f"{case.image}: image without its label, expected {case.label}.")
    else:
        label = attempt("unreadable_label", parse_volume, case.label, max_bytes, orientation)
    for volume in (image, label):
        if volume is not None:
            attempt("not_finite", check_finite, volume)
    if label is not None:
        mask = attempt("label_values", atrium_mask, label, label_value)
    if image is not None and label is not None:
        attempt("shape", check_same_shape, image, label)
        if image.array.shape == label.array.shape:
            attempt("geometry", check_same_geometry, image, label)
    if image is not None and mask is not None and Inspection(case, {}, found.problems).usable:
        mask = on_grid_of(image, mask, ("geometry",))  # whether it may be is said above
        for code, check in CHECKS.items():
            add(code, check(image, mask))
    return Inspection(case, _facts(image, mask, plane), found.problems), image, mask


def _facts(image: Volume | None, mask: Volume | None, plane: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if image is not None:
        facts |= {
            "shape": list(image.array.shape),
            "spacing_mm": [round(step, 6) for step in image.spacing],
            "plane": to_slices(image.array, image.affine, plane)[1].plane,
            "orientation": image.note,
            "dtype": str(image.array.dtype),
            "voxels_sha256": voxels_sha256(image),
        }
    if image is not None and mask is not None:
        facts["atrium_ml"] = volume_ml(mask.array, image.affine)
    return facts


def voxels_sha256(volume: Volume) -> str:
    """Hash of the decoded voxels, whatever the file format, data type and axis order."""
    canonical, _ = to_canonical(volume.array, volume.affine)
    digest = hashlib.sha256(str(canonical.shape).encode())
    for plane in canonical.transpose(2, 1, 0):
        digest.update(np.ascontiguousarray(plane, np.float32).data)
    return digest.hexdigest()


def find_duplicates(inspections: Sequence[Inspection]) -> list[Problem]:
    """Cases whose images have the same voxels as those of an earlier case.

    A warning where the files are identical, too: the split keeps those in one part. Another file
    with the same voxels is an error: the split cannot know, and would score it from memory.
    """
    first: dict[str, Case] = {}
    problems = []
    for inspection in inspections:
        case = inspection.case
        if "voxels_sha256" not in inspection.facts:
            continue
        other = first.setdefault(str(inspection.facts["voxels_sha256"]), case)
        if other is case:
            continue
        same_file = filecmp.cmp(other.image, case.image, shallow=False)
        code = "same_file" if same_file else "duplicate"
        found = f"{case.image}: the same image as {other.image} found, expected every scan once"
        rest = "; the split keeps both in one part." if same_file else "; remove one of them."
        problems.append(Problem(SEVERITY[code], code, case.name, found + rest))
    return problems


def find_other_planes(inspections: Sequence[Inspection]) -> list[Problem]:
    """Cases whose slices would be cut in another plane than those of most cases."""
    planes = Counter(i.facts["plane"] for i in inspections if "plane" in i.facts)
    if len(planes) < 2:
        return []
    counts = ", ".join(f"{plane} {count}" for plane, count in planes.most_common())
    most = planes.most_common(1)[0][0]
    return [
        Problem(
            *(SEVERITY["plane"], "plane", i.case.name),
            f"{i.case.image}: cut across another axis than most cases, into {i.facts['plane']} "
            f"slices, of planes {counts} found in this dataset, expected one; --plane={most} "
            "(config.data.plane) cuts all cases so, and 'plane' can be allowed.",
        )
        for i in inspections
        if i.facts.get("plane", most) != most
    ]


def errors_of(problems: Iterable[Problem], allow: Sequence[str] = ()) -> list[Problem]:
    """The problems that forbid training; `allow` names codes of `ALLOWED` that do not."""
    return [p for p in problems if p.severity == "error" and p.code not in allow]


def check_datasets(
    datasets: Sequence[Dataset],
    label_value: int | None = None,
    max_bytes: int = MAX_BYTES,
    orientation: str = "",
    plane: str = "",
) -> tuple[list[Inspection], list[Problem]]:
    """Inspects every labelled case, and looks for duplicates among all of them.

    Args:
        datasets: from `dataset.detect`.
        label_value: of the atrium; None for the only non-zero value.
        max_bytes: of voxels in one file.
        orientation: of files that do not say it, as in `parse_volume`.
        plane: of the slices, as in `to_slices`.

    Returns:
        The inspections in the order of the cases, and all problems, errors first.
    """
    cases = [case for dataset in datasets for case in dataset.cases]
    how = label_value, max_bytes, orientation, plane
    inspections = in_parallel("checking volumes", lambda case: inspect_case(case, *how)[0], cases)
    problems = [problem for inspection in inspections for problem in inspection.problems]
    problems += find_duplicates(inspections) + find_other_planes(inspections)
    return inspections, sorted(problems, key=lambda problem: problem.severity)
