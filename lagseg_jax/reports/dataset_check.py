"""What the check of a dataset found, in lines for people and as a record for programs."""

import dataclasses
import statistics
from collections import Counter
from collections.abc import Sequence

from lagseg_jax.data.cases import Dataset
from lagseg_jax.data.datasets import passed_over, patients_of
from lagseg_jax.data.patients import describe_patients
from lagseg_jax.data.quality import Inspection, Problem
from lagseg_jax.runtime.console import count_of

LISTED = 5  # problems of one kind in the table; the JSON file has all of them


def dataset_summary(
    datasets: Sequence[Dataset], inspections: Sequence[Inspection], patient: str = ""
) -> list[str]:
    """What the datasets hold, in lines of a name and a value."""
    lines = [
        f"{'dataset':10}{f'{d.name}: ' * bool(d.name)}{d.layout}, {d.root}"
        + f", {len(d.cases)} cases" * bool(d.name)
        for d in datasets
    ]
    lines += [f"{'not read':10}{line}" for dataset in datasets for line in passed_over(dataset)]
    unlabelled = sum(dataset.unlabelled for dataset in datasets)
    lines.append(f"{'cases':10}{len(inspections)} with label, {unlabelled} images without")
    patient = patients_of(datasets, patient, "--patient")
    patients = len({inspection.case.patient for inspection in inspections})
    found = f"{patients}, {describe_patients(patient)}" if patient else describe_patients("")
    lines.append(f"{'patients':10}{found}")
    facts = [inspection.facts for inspection in inspections]
    for title, name, unit in (("shape", "shape", ""), ("voxels", "spacing_mm", " mm")):
        axes = list(zip(*(fact[name] for fact in facts if name in fact)))
        ranges = [
            f"{min(axis):g}" + (f"-{max(axis):g}" if max(axis) > min(axis) else "") for axis in axes
        ]
        lines.append(f"{title:10}{' x '.join(ranges)}{unit}")
    planes = Counter(fact["plane"] for fact in facts if "plane" in fact)
    lines.append(f"{'slices':10}{', '.join(f'{plane} {n}' for plane, n in planes.items())}")
    told = Counter(fact.get("orientation") for fact in facts)
    lines += [f"{'told':10}{note} ({count_of(n, 'case')})" for note, n in told.items() if note]
    volumes = [fact["atrium_ml"] for fact in facts if "atrium_ml" in fact]
    if volumes:
        lines.append(
            f"{'atrium':10}{min(volumes):.1f} to {max(volumes):.1f} mL, "
            f"median {statistics.median(volumes):.1f} mL"
        )
    return lines


def problem_lines(problems: Sequence[Problem], allow: Sequence[str]) -> list[str]:
    """One line per problem; of many of one kind the first few, of an allowed kind their number."""
    lines = []
    for code in dict.fromkeys(problem.code for problem in problems):
        alike = [problem for problem in problems if problem.code == code]
        head = f"{'allowed' if code in allow else alike[0].severity:8}{code:17}"
        if code in allow:
            lines.append(f"{head}{len(alike)} found, such as {alike[0].case}")
            continue
        lines += [f"{head}{problem.case:11} {problem.sentence}" for problem in alike[:LISTED]]
        if alike[LISTED:]:
            lines.append(f"{head}... and {len(alike) - LISTED} more (--json=FILE writes them all)")
    return lines


def verdict(problems: Sequence[Problem], allow: Sequence[str], strict: bool) -> tuple[str, int]:
    """The last line, and the exit status."""
    counted = [problem for problem in problems if problem.code not in allow]
    errors = sum(problem.severity == "error" for problem in counted)
    warnings = len(counted) - errors
    status = 2 if errors else int(strict and warnings > 0)
    outcome = "training refuses this dataset" if errors else "the dataset can be used"
    allowed = f", {len(problems) - len(counted)} allowed" if len(problems) > len(counted) else ""
    return f"{errors} errors, {warnings} warnings{allowed}: {outcome}", status


def check_record(
    datasets: Sequence[Dataset],
    inspections: Sequence[Inspection],
    problems: Sequence[Problem],
    allow: Sequence[str],
) -> dict:
    """The content of the JSON file."""
    return {
        "datasets": [
            {
                "name": d.name,
                "layout": d.layout,
                "root": str(d.root),
                "labelled": len(d.cases),
                "unlabelled": d.unlabelled,
            }
            for d in datasets
        ],
        "cases": [
            {"case": i.case.name, "image": str(i.case.image), "label": str(i.case.label), **i.facts}
            for i in inspections
        ],
        "problems": [
            dataclasses.asdict(problem) | {"allowed": problem.code in allow} for problem in problems
        ],
    }
