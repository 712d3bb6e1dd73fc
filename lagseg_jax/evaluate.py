"""Judges any labelled dataset with a finished run, or several: python -m lagseg_jax.evaluate.

The results lie in a folder of their own, RUN/evaluations/NAME or --output: report, tables, masks
and pictures as in an evaluation of the run, of which nothing else changes.
"""

import argparse
import re
import sys
from pathlib import Path

from lagseg_jax.config.choices import ALLOWED
from lagseg_jax.config.validate import as_tuple
from lagseg_jax.data.options import (
    add_label_rule,
    add_naming,
    add_reading,
    add_selection,
    one_or_several,
)
from lagseg_jax.imaging.labels import LabelRule
from lagseg_jax.imaging.orientation import check_orientation
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import exit_status, log, log_to_console
from lagseg_jax.runtime.errors import InputError, one_of


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options.

    Raises:
        InputError: a value that cannot be.
    """
    parser = command_parser("evaluate", "The run's own evaluation stays as it is.")
    add = parser.add_argument_group("run and test set").add_argument
    add(
        "--workdir",
        required=True,
        nargs="+",
        type=Path,
        help="folder of a training run; several: ensemble",
    )
    add(
        "--data",
        default="",
        type=one_or_several,
        help="folder of a labelled dataset, another than the run's; several as ('A','NAME=B')",
    )
    add("--split", default="", metavar="FILE", help="splits.json of that dataset: its test cases")
    add("--weights", default=[], nargs="+", help="folder of the encoder weights, if moved")
    add = parser.add_argument_group("results").add_argument
    add("--name", default="", help="of the test set (default: that of its folder)")
    add("--output", default="", help="folder of the results (default: RUN/evaluations/NAME)")
    add = parser.add_argument_group("cases and reading").add_argument
    add_naming(add)
    add_selection(add)
    add_label_rule(add)
    add_reading(add)
    add(
        "--allow",
        default="",
        metavar="CODE[,CODE]",
        help="problems that do not count: seen_case for cases that the run has learnt from, and "
        "those of check",
    )
    return _checked(parser.parse_args(arguments))


def _checked(options: argparse.Namespace) -> argparse.Namespace:
    check_orientation("--orientation", options.orientation)
    LabelRule.given(options, "label")
    options.allow = tuple(code for code in options.allow.split(",") if code)
    for code in options.allow:
        one_of("--allow", code, ALLOWED)
    if not options.data and not options.images:
        raise InputError("--data is missing, expected a folder, or a table in --images")
    if len(options.workdir) > 1 and not options.output:
        raise InputError("--output is missing, expected a folder, as --workdir names several runs")
    options.name = options.name or _name_of_data(options)
    if not re.fullmatch(r"[^/\\.\0][^/\\\0]*", options.name):
        raise InputError(
            f"--name is {options.name!r}, expected the name of a folder: no slash, and no dot "
            "at its start"
        )
    return options


def _name_of_data(options: argparse.Namespace) -> str:
    """What a test set is called by its folders, or its table."""
    places = as_tuple(options.data) or (Path(as_tuple(options.images)[0]).stem,)
    folders = [place.rpartition("=")[2] for place in places]
    return "_".join(Path(folder).resolve().name for folder in folders)


def main(arguments: list[str] | None = None) -> int:
    """Evaluates; returns the exit status."""
    options = parse_arguments(arguments)
    log_to_console()
    for workdir in options.workdir:
        read_config(workdir)  # refused before jax is loaded
    from lagseg_jax.evaluation.evaluate import summary_line
    from lagseg_jax.evaluation.external import ExternalSet, judge_external
    from lagseg_jax.reports.page import write_report
    from lagseg_jax.reports.review import write_evaluation_review
    from lagseg_jax.reports.review_case import write_case_page

    fields = (
        *("images", "labels", "cases", "exclude"),
        *("label_value", "label_threshold", "orientation", "max_gb", "allow"),
    )
    data = {"root": options.data, **{field: getattr(options, field) for field in fields}}
    where = options.name, options.output, options.split, data
    test = ExternalSet(tuple(options.workdir), *where, tuple(options.weights))
    try:
        segmenter, summary = judge_external(test, write_case_page)
    except InputError as error:
        raise InputError(_named_as_here(str(error))) from None
    write_evaluation_review(test.folder)
    report = write_report(test.folder)
    random = " (random encoder)" if segmenter.encoder.warning else ""
    log.info("%s%s: %s", test.name, random, summary_line(summary))
    log.info("  report, tables, masks and pictures: %s", report)
    return 0


def _named_as_here(sentence: str) -> str:
    """The fields of a config by the names of the options."""
    sentence = re.sub(r"config\.data\.allow=\('(\w+)',\)", r"--allow=\1", sentence)
    return sentence.replace("config.data.root", "--data").replace("config.data.", "--")


if __name__ == "__main__":
    sys.exit(exit_status(main))
