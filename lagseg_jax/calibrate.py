"""Says how the probabilities of a run are to be read: python -m lagseg_jax.calibrate WORKDIR.

The validation cases choose threshold, components and smoothing; the test cases say what that
changes, and whether the probabilities are calibrated. Nothing in the run is changed: the fields to
set are printed. The table and all numbers behind it go to `evaluation/calibration.json`.

With `--estimates` it measures instead what `predict` says of the Dice and the volume of masks, for
several runs together and for `--tta`, too.
"""

import argparse
import sys
from pathlib import Path

from lagseg_jax.data.options import one_or_several
from lagseg_jax.reports.calibration_table import advice, calibration_lines
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import count_of, exit_status, log, log_to_console, say
from lagseg_jax.runtime.errors import InputError, one_of


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options; raises InputError for a name after --allow that is none."""
    parser = command_parser(
        "calibrate",
        "Chooses threshold, components and smoothing on the validation cases of a run, and reports "
        "them and the calibration of the probabilities on its test cases.",
    )
    add = parser.add_argument_group("the run, and what was moved since").add_argument
    about = "folder of a finished training run; several, an ensemble, with --estimates"
    add("workdir", nargs="+", type=Path, help=about)
    about = "folder of the dataset, if it was moved; several as ('A','NAME=B')"
    add("--data", metavar="DATASET", type=one_or_several, help=about)
    about = "folder of the encoder weights, if they were moved; again for each further run's"
    add("--weights", action="append", help=about)
    about = "changed_label: labels were corrected since the training"
    add("--allow", default="", metavar="changed_label", help=about)
    add = parser.add_argument_group("estimates of Dice and volume").add_argument
    about = "measure these on the validation cases, for predict with the same runs and options"
    add("--estimates", action="store_true", help=about)
    add("--tta", action="store_true", help="of predictions averaged over the four mirrorings")
    options = parser.parse_args(arguments)
    one_of("--allow", options.allow, ("", "changed_label"))
    if not options.estimates and (options.tta or len(options.workdir) > 1):
        found = "--tta" if options.tta else "several runs"
        raise InputError(f"{found} given, expected --estimates with several runs and with --tta")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Calibrates and prints; returns the exit status."""
    options = parse_arguments(arguments)
    log_to_console()
    configs = [read_config(workdir) for workdir in options.workdir]  # before jax is loaded
    if options.estimates:
        return _estimates(options)
    from lagseg_jax.evaluation.tuning import calibrate_run

    (workdir,) = options.workdir
    weights = options.weights and options.weights[0]
    result = calibrate_run(workdir, options.data, weights, options.allow)
    say(*calibration_lines(result), f"\n{advice(result, workdir, configs[0])}")
    log.info("%s", workdir / "evaluation" / "calibration.json")
    return 0


def _estimates(options: argparse.Namespace) -> int:
    from lagseg_jax.evaluation.uncertainty import calibrate_estimates

    how = options.data, options.weights, options.allow
    path, rows = calibrate_estimates(options.workdir, options.tta, *how)
    dice = sum(row["dice"] for row in rows) / len(rows)
    log.info("validation: Dice %.3f (mean over %s)", dice, count_of(len(rows), "case"))
    log.info("%s", path)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
