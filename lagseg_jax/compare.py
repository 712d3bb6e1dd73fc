"""Scores masks of any tool: python -m lagseg_jax.compare TRUTH PREDICTIONS [PREDICTIONS...].

With several folders of predictions, every pair is compared case by case. What is missing or cannot
be used is named, the rest is scored all the same; the exit status is then 2.
"""

import argparse
import sys
from pathlib import Path

from lagseg_jax.config.validate import as_tuple
from lagseg_jax.data.options import add_label_rule, add_naming, add_reading, one_or_several
from lagseg_jax.evaluation.compare import comparison_lines, score_masks, write_comparison
from lagseg_jax.evaluation.mask_files import find_truth
from lagseg_jax.imaging.labels import LabelRule
from lagseg_jax.imaging.orientation import check_orientation
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.reports.compare_page import write_comparison_page
from lagseg_jax.reports.verdicts import add_list_options, listed
from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import exit_status, log, log_to_console, say, say_error
from lagseg_jax.runtime.errors import one_of
from lagseg_jax.runtime.files import check_writable


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = command_parser(
        "compare", "Exit status: 0; 2 if a mask is missing or cannot be used (others are scored)."
    )
    add = parser.add_argument_group("masks").add_argument
    add(
        "truth",
        type=one_or_several,
        help="folder of label files, or of a dataset; several datasets as ('A','NAME=B')",
    )
    add(
        "predictions",
        nargs="+",
        help="folder of masks named by case, e.g. nnU-Net's output or RUN/evaluation/masks",
    )
    add = parser.add_argument_group("cases, values and output").add_argument
    add_naming(add)
    add("--split", metavar="FILE", help="splits.json of a run: its test cases only")
    add_list_options(add)
    add("--output", metavar="FOLDER", help="gets report.html, per_case.csv and comparison.json")
    for name, what in (("label", "truth"), ("prediction", "predictions")):
        add_label_rule(add, name, f" in the {what}")
    add_reading(add)
    add("--allow", default="", metavar="geometry", help="masks lie on the truth by index")
    options = parser.parse_args(arguments)
    check_orientation("--orientation", options.orientation)
    one_of("--allow", options.allow, ("", "geometry"))
    return options


def main(arguments: list[str] | None = None) -> int:
    """Scores and compares; returns the exit status."""
    options = parse_arguments(arguments)
    log_to_console()
    if options.output:
        check_writable(Path(options.output), "an --output folder that can")
    truth = find_truth(options.truth, options.split, options.images, options.labels)
    truth = listed(options, truth)
    folders = [Path(folder) for folder in options.predictions]
    rules = LabelRule.given(options, "label"), LabelRule.given(options, "prediction")
    most = int(options.max_gb * 1e9)
    reading = Reading(most, options.orientation, allow=(options.allow,))
    scores = score_masks(truth, folders, rules, reading)
    say(*comparison_lines(scores))
    if options.output:
        named = ", ".join(as_tuple(options.truth))
        told = {"orientation": options.orientation, "allow": options.allow}
        write_comparison(Path(options.output), named, scores, told)
        page = write_comparison_page(Path(options.output), named, scores, told)
        log.info("report: %s", page)
    problems = [sentence for one in scores for sentence in one.problems.values()]
    for sentence in problems:
        say_error(f"error: {sentence}")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
