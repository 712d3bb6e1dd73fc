"""Names all problems of a dataset before any training: python -m lagseg_jax.check DATASET.

Every file is read once, in parallel. Exit status: 0 no errors, 2 errors (training refuses such a
dataset), with --strict 1 if there are warnings only.
"""

import argparse
import sys
import time
from pathlib import Path

from lagseg_jax.config.choices import ALLOWED
from lagseg_jax.config.validate import as_tuple
from lagseg_jax.data.dataset_checks import check_datasets
from lagseg_jax.data.datasets import find_datasets
from lagseg_jax.data.options import (
    add_label_rule,
    add_naming,
    add_reading,
    add_selection,
    one_or_several,
)
from lagseg_jax.imaging.labels import LabelRule
from lagseg_jax.imaging.orientation import check_orientation
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.slices import check_plane
from lagseg_jax.reports.dataset_check import check_record, dataset_summary, problem_lines, verdict
from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import count_of, exit_status, log_to_console, say
from lagseg_jax.runtime.errors import InputError, one_of
from lagseg_jax.runtime.files import check_writable, write_json


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options.

    Raises:
        InputError: a code after --allow, an orientation or a plane that does not exist.
    """
    parser = command_parser(
        "check", "Exit status: 0 no errors; 2 errors; with --strict 1 for warnings only."
    )
    add = parser.add_argument_group("dataset").add_argument
    add(
        "dataset",
        nargs="+",
        type=one_or_several,
        help="folder of a dataset, or NAME=FOLDER; several are compared for images in both",
    )
    add_naming(add)
    add_selection(add)
    add_label_rule(add)
    add("--patient", default="", help="expression with one group, or CSV case,patient")
    add("--plane", default="", help="of the slices: axial, coronal or sagittal")
    add_reading(add)
    add = parser.add_argument_group("result").add_argument
    add("--json", metavar="FILE", help="write everything that was found there")
    add(
        "--allow",
        default="",
        metavar="CODE[,CODE]",
        help=f"problems that do not count: {', '.join(ALLOWED)}",
    )
    add("--strict", action="store_true", help="warnings count, too")
    options = parser.parse_args(arguments)
    options.dataset = [root for given in options.dataset for root in as_tuple(given)]
    options.allow = tuple(code for code in options.allow.split(",") if code)
    for code in options.allow:
        one_of("--allow", code, ALLOWED)
    check_orientation("--orientation", options.orientation)
    check_plane("--plane", options.plane)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Checks; returns the exit status."""
    options = parse_arguments(arguments)
    log_to_console()
    if options.json:
        path = Path(options.json).absolute()
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"--json is {path}, expected a file in a folder that is there")
        check_writable(path.parent, "--json to name a file in a folder that can")
    start = time.monotonic()
    named = options.images, options.labels, options.cases, options.exclude
    datasets = find_datasets(options.dataset, *named, "--")
    rule = LabelRule.given(options, "label")
    inspections, problems = check_datasets(datasets, rule, Reading.of(options), options.patient)
    sentence, status = verdict(problems, options.allow, options.strict)
    say(
        *dataset_summary(datasets, inspections, options.patient),
        *([f"{'labels':10}{rule.merged}"] if rule.merged else []),
        *problem_lines(problems, options.allow),
    )
    cases = count_of(len(inspections), "case")
    say(f"{sentence} ({cases} in {time.monotonic() - start:.1f} s)")
    if options.json:
        content = check_record(datasets, inspections, problems, options.allow) | {"status": status}
        write_json(Path(options.json), content)
    return status


if __name__ == "__main__":
    sys.exit(exit_status(main))
