"""Says how the probabilities of a run are to be read: python -m lagseg_jax.calibrate WORKDIR.

The validation cases choose threshold, components and smoothing; the test cases say what that
changes, and whether the probabilities are calibrated. Nothing in the run is changed: the fields to
set are printed. The table and all numbers behind it go to `evaluation/calibration.json`.
"""

import argparse
import sys
from pathlib import Path

from lagseg_jax.data.options import one_or_several
from lagseg_jax.reports.calibration_table import advice, calibration_lines
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import exit_status, log, log_to_console, say
from lagseg_jax.runtime.errors import one_of


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options; raises InputError for a name after --allow that is none."""
    parser = command_parser(
        "calibrate",
        "Chooses threshold, components and smoothing on the validation cases of a run, and reports "
        "them and the calibration of the probabilities on its test cases.",
    )
    add = parser.add_argument_group("the run, and what was moved since").add_argument
    add("workdir", type=Path, help="folder of a finished training run")
    about = "folder of the dataset, if it was moved; several as ('A','NAME=B')"
    add("--data", metavar="DATASET", type=one_or_several, help=about)
    add("--weights", help="folder of the encoder weights, if they were moved")
    about = "changed_label: labels were corrected since the training"
    add("--allow", default="", metavar="changed_label", help=about)
    options = parser.parse_args(arguments)
    one_of("--allow", options.allow, ("", "changed_label"))
    return options


def main(arguments: list[str] | None = None) -> int:
    """Calibrates and prints; returns the exit status."""
    options = parse_arguments(arguments)
    log_to_console()
    config = read_config(options.workdir)  # refused before jax is loaded
    from lagseg_jax.evaluation.tuning import calibrate_run

    result = calibrate_run(options.workdir, options.data, options.weights, options.allow)
    say(*calibration_lines(result), f"\n{advice(result, options.workdir, config)}")
    log.info("%s", options.workdir / "evaluation" / "calibration.json")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
