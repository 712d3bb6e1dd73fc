"""finished run -> how its probabilities are to be read: python -m lagseg_jax.calibrate WORKDIR.

The validation cases choose threshold, components and smoothing; the test cases say what that
changes, and whether the probabilities are calibrated. Nothing in the run is changed: the fields to
set are printed. The table and all numbers behind it go to `evaluation/calibration.json`.
"""

import argparse
import sys
from pathlib import Path

from lagseg_jax.evaluation.tuning import calibrate
from lagseg_jax.reports.calibration_table import advice, table
from lagseg_jax.runs.workdir import has_checkpoints, read_config
from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import exit_status, log, log_to_console
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_json


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = command_parser(
        "calibrate",
        "Chooses threshold, components and smoothing on the validation cases of a run, and reports "
        "them and the calibration of the probabilities on its test cases.",
    )
    add = parser.add_argument_group("the run, and what was moved since").add_argument
    add("workdir", type=Path, help="folder of a finished training run")
    add("--data", metavar="DATASET", help="folder of the dataset, if it was moved")
    add("--weights", help="folder of the encoder weights, if they were moved")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Chooses, scores, writes and prints; returns the exit status."""
    options = parse_arguments(arguments)
    log_to_console()
    workdir = options.workdir
    config = read_config(workdir)  # refused before jax is loaded
    if not has_checkpoints(workdir):
        raise InputError(f"{workdir} has no checkpoint, expected a folder where training has run")
    from lagseg_jax.data.split import load_split
    from lagseg_jax.inference.segmenter import load_segmenter

    config.data.root = options.data or config.data.root
    split = load_split(config, workdir)
    result = calibrate(load_segmenter(workdir, options.weights), split)
    path = workdir / "evaluation" / "calibration.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, result)
    print(*table(result), sep="\n")
    print(f"\n{advice(result, workdir, config)}")
    if warning := result["encoder"].get("warning"):
        log.warning("WARNING: %s", warning)
    log.info("%s", path)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
