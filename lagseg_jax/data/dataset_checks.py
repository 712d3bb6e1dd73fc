"""Finds what is wrong with a dataset as a whole: scans twice, mixed planes and values, visits."""

import filecmp
import logging
from collections import Counter
from collections.abc import Sequence

from lagseg_jax.config.choices import SEVERITY
from lagseg_jax.data.cases import Case, Dataset
from lagseg_jax.data.datasets import labelled
from lagseg_jax.data.label_checks import unlike_values
from lagseg_jax.data.patients import assign_patients, find_visits, listed, visits_rule
from lagseg_jax.data.quality import Inspection, Problem, errors_of, inspect_case
from lagseg_jax.imaging.labels import ONLY_VALUE, LabelRule
from lagseg_jax.imaging.reading import AS_STORED, Reading
from lagseg_jax.runtime.console import count_of, in_parallel
from lagseg_jax.runtime.errors import InputError

log = logging.getLogger(__name__)


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


def find_unlike_values(inspections: Sequence[Inspection], rule: LabelRule) -> list[Problem]:
    """Labels of one dataset whose atrium is written with another value than in most.

    A warning among values that stand for the whole of a mask; others may be another structure.
    """
    values = [inspection.facts.get("label_value") for inspection in inspections]
    code, places, found = unlike_values(values, rule)
    allowable = ", or allow 'unlike_values' if all are the atrium" * (code == "unlike_values")
    return [
        Problem(
            *(SEVERITY[code], code, inspections[n].case.name),
            f"{inspections[n].case.label}: the only value of this label is {values[n]:g}, of "
            f"{found} in this dataset, expected one; name the atrium's with {rule.option}value"
            f"{allowable}.",
        )
        for n in places
    ]


def find_unused_values(inspections: Sequence[Inspection], rule: LabelRule) -> list[Problem]:
    """Values to be merged that no label has: a wrong number would leave out half of the atrium."""
    found = {value for i in inspections for value in i.facts.get("merged", ())}
    labels = [i for i in inspections if "merged" in i.facts]
    return [
        Problem(
            *(SEVERITY["label_values"], "label_values", labels[0].case.name),
            f"{labels[0].case.label}: neither this label nor one of the {len(labels) - 1} others "
            f"has the value {value}, expected every value of {rule.option}value="
            f"{rule.value} in some of them.",
        )
        for value in rule.values
        if labels and value not in found
    ]


def visit_problems(inspections: Sequence[Inspection]) -> list[Problem]:
    """Cases whose names look like several scans of one patient, where no patients are known."""
    image_of = {i.case.name_in_dataset: i.case.image for i in inspections}
    rule = visits_rule(list(image_of))
    such = f", such as '{rule}'" * bool(rule)
    return [
        Problem(
            *(SEVERITY["visits"], "visits", names[0]),
            f"{image_of[names[0]]}: {listed(names)} look like scans of one patient, who may then "
            "be in training and test, expected patients named by --patient (config.data.patient)"
            f"{such}.",
        )
        for names in find_visits(image_of).values()
    ]


def check_datasets(
    datasets: Sequence[Dataset],
    rule: LabelRule = ONLY_VALUE,
    reading: Reading = AS_STORED,
    patient: str = "",
) -> tuple[list[Inspection], list[Problem]]:
    """Inspects every labelled case, and looks for duplicates among all of them.

    Args:
        datasets: from `find_datasets`.
        rule: which voxels of a label are atrium.
        reading: what is told about the files.
        patient: the rule of `assign_patients`.

    Returns:
        The inspections in the order of the cases, and all problems, errors first.
    """
    cases = assign_patients(labelled(datasets), patient, "--patient")
    inspections = in_parallel(
        "checking volumes", lambda case: inspect_case(case, rule, reading)[0], cases
    )
    problems = [problem for inspection in inspections for problem in inspection.problems]
    problems += find_duplicates(inspections) + find_other_planes(inspections)
    problems += find_unused_values(inspections, rule)
    start = 0
    for dataset in datasets:
        part, start = inspections[start : start + len(dataset.cases)], start + len(dataset.cases)
        problems += find_unlike_values(part, rule)
        problems += [] if patient or dataset.patients else visit_problems(part)
    return inspections, sorted(problems, key=lambda problem: problem.severity)


def refuse_errors(inspections: Sequence[Inspection], allow: Sequence[str], rule: LabelRule) -> None:
    """A dataset with errors is refused; of warnings only the number is said.

    Args:
        inspections: of all cases, whose own errors have been logged.
        allow: codes of errors that do not count.
        rule: which voxels of a label are atrium.

    Raises:
        InputError: there are errors.
    """
    of_all = find_duplicates(inspections) + find_other_planes(inspections)
    of_all += find_unused_values(inspections, rule)
    for dataset in dict.fromkeys(inspection.case.dataset for inspection in inspections):
        of_all += find_unlike_values([i for i in inspections if i.case.dataset == dataset], rule)
    log_errors(of_all, allow)
    problems = [problem for inspection in inspections for problem in inspection.problems]
    problems += of_all
    errors = errors_of(problems, allow)
    if len(errors) == 1:
        raise InputError(errors[0].sentence)
    if errors:
        bad = len({error.case for error in errors})
        raise InputError(
            f"{bad} of {len(inspections)} cases cannot be used, all of them are named above, the "
            f"first: {errors[0].sentence}"
        )
    told = Counter(inspection.facts.get("orientation") for inspection in inspections)
    for note, count in told.items():
        if note:
            log.warning("data: orientation of %s: %s", count_of(count, "case"), note)
    allowed = Counter(p.code for p in problems if p.severity == "error")
    if allowed:
        counts = ", ".join(f"{code} {count}" for code, count in allowed.items())
        log.warning("data: allowed by config.data.allow (%s)", counts)
    warnings = Counter(problem.code for problem in problems if problem.code not in allow)
    if warnings:
        counts = ", ".join(f"{code} {count}" for code, count in warnings.items())
        log.warning("data: warnings (%s); python -m lagseg_jax.check DATASET lists them", counts)


def log_errors(problems: Sequence[Problem], allow: Sequence[str]) -> None:
    """A line for each error that counts."""
    for error in errors_of(problems, allow):
        log.error("  %-16s %s", error.code, error.sentence)
