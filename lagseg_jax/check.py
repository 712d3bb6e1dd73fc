"""dataset folders -> all their problems, as a table and JSON: python -m lagseg_jax.check DATASET.

Every file is read once, in parallel. Exit status: 0 no errors, 2 errors (training refuses such a
dataset), with --strict 1 if there are warnings only.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lagseg_jax.config.choices import ALLOWED
from lagseg_jax.data.layouts import Dataset, detect
from lagseg_jax.data.quality import Inspection, Problem, check_datasets
from lagseg_jax.imaging.volume import MAX_BYTES
from lagseg_jax.runtime.console import exit_status, log_to_console
from lagseg_jax.runtime.errors import Interrupted, one_of
from lagseg_jax.runtime.files import write_atomically

LISTED = 5  # problems of one kind in the table; the JSON file has all of them


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options.

    Raises:
        InputError: a code after --allow that does not exist.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lagseg_jax.check",
        description="Checks every file of a dataset before any training, in one pass.",
        epilog="Exit status: 0 no errors; 2 errors; with --strict 1 for warnings only.",
    )
    parser.add_argument(
        "dataset",
        nargs="+",
        help="folder of a dataset; several are compared for images that are in both",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything that was found there")
    parser.add_argument(
        "--label_value", type=int, help="of the atrium (default: the only non-zero value)"
    )
    parser.add_argument(
        "--allow",
        default="",
        metavar="CODE[,CODE]",
        help=f"problems that do not count: {', '.join(ALLOWED)}",
    )
    parser.add_argument(
        "--max_gb",
        type=float,
        default=MAX_BYTES / 1e9,
        help="largest decoded size of one file (default: %(default)g)",
    )
    parser.add_argument("--strict", action="store_true", help="warnings count, too")
    options = parser.parse_args(arguments)
    options.allow = tuple(code for code in options.allow.split(",") if code)
    for code in options.allow:
        one_of("--allow", code, ALLOWED)
    return options


def describe(datasets: Sequence[Dataset], inspections: Sequence[Inspection]) -> list[str]:
    """What the datasets hold, in lines of a name and a value."""
    lines = [f"{'dataset':10}{d.layout}, {d.root}" for d in datasets]
    unlabelled = sum(dataset.unlabelled for dataset in datasets)
    lines.append(f"{'cases':10}{len(inspections)} with label, {unlabelled} images without")
    facts = [inspection.facts for inspection in inspections]
    for title, name, unit in (("shape", "shape", ""), ("voxels", "spacing_mm", " mm")):
        axes = list(zip(*(fact[name] for fact in facts if name in fact)))
        ranges = [
            f"{min(axis):g}" + (f"-{max(axis):g}" if max(axis) > min(axis) else "") for axis in axes
        ]
        lines.append(f"{title:10}{' x '.join(ranges)}{unit}")
    volumes = [fact["atrium_ml"] for fact in facts if "atrium_ml" in fact]
    if volumes:
        lines.append(
            f"{'atrium':10}{min(volumes):.1f} to {max(volumes):.1f} mL, "
            f"median {statistics.median(volumes):.1f} mL"
        )
    return lines


def table(problems: Sequence[Problem], allow: Sequence[str]) -> list[str]:
    """One line per problem; of many of one kind the first few."""
    lines = []
    for code in dict.fromkeys(problem.code for problem in problems):
        alike = [problem for problem in problems if problem.code == code]
        head = f"{'allowed' if code in allow else alike[0].severity:8}{code:17}"
        lines += [f"{head}{problem.case:12}{problem.sentence}" for problem in alike[:LISTED]]
        if alike[LISTED:]:
            lines.append(f"{head}... and {len(alike) - LISTED} more (--json=FILE writes them all)")
    return lines


def result(problems: Sequence[Problem], allow: Sequence[str], strict: bool) -> tuple[str, int]:
    """The last line, and the exit status."""
    counted = [problem for problem in problems if problem.code not in allow]
    errors = sum(problem.severity == "error" for problem in counted)
    warnings = len(counted) - errors
    status = 2 if errors else int(strict and warnings > 0)
    verdict = "training refuses this dataset" if errors else "the dataset can be used"
    allowed = f", {len(problems) - len(counted)} allowed" if len(problems) > len(counted) else ""
    return f"{errors} errors, {warnings} warnings{allowed}: {verdict}", status


def record(
    datasets: Sequence[Dataset],
    inspections: Sequence[Inspection],
    problems: Sequence[Problem],
    allow: Sequence[str],
) -> dict:
    """The content of the JSON file."""
    return {
        "datasets": [
            {
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


def main(arguments: list[str] | None = None) -> int:
    """Checks; returns the exit status."""
    options = parse_arguments(arguments)
    log_to_console()
    start = time.monotonic()
    datasets = [detect(root) for root in options.dataset]
    try:
        inspections, problems = check_datasets(
            datasets, options.label_value, int(options.max_gb * 1e9)
        )
    except KeyboardInterrupt:
        raise Interrupted("stopped by Ctrl-C, before all files were read") from None
    sentence, status = result(problems, options.allow, options.strict)
    print(*describe(datasets, inspections), *table(problems, options.allow), sep="\n")
    print(f"{sentence} ({len(inspections)} cases in {time.monotonic() - start:.1f} s)")
    if options.json:
        content = record(datasets, inspections, problems, options.allow) | {"status": status}
        write_atomically(Path(options.json), json.dumps(content, indent=2) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(exit_status(main))
