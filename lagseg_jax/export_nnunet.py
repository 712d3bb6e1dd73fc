"""Writes a run's cases and split for nnU-Net: python -m lagseg_jax.export_nnunet.

Cases, split and rule of the labels are those of the run, so that both are trained and judged on the
same: docs/compare-with-nnunet.md goes on from there.
"""

import argparse
import sys
from pathlib import Path

from lagseg_jax.data.options import one_or_several
from lagseg_jax.runs.workdir import CONFIG, has_checkpoints, read_config
from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import exit_status, log, log_to_console
from lagseg_jax.runtime.errors import InputError


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = command_parser("export_nnunet", "The run and its data stay as they are.")
    add = parser.add_argument_group("run and output").add_argument
    add("--workdir", required=True, type=Path, help="folder of a training run")
    add("--output", required=True, type=Path, help="new folder nnUNet_raw/DatasetNNN_NAME")
    about = "folder of the run's dataset, if it was moved; several as ('A','NAME=B')"
    add("--data", default="", type=one_or_several, help=about)
    add("--channel", default="MRI", help="name of the images; CT: nnU-Net's normalisation of CT")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Writes the folder; returns the exit status."""
    options = parse_arguments(arguments)
    log_to_console()
    config = read_config(options.workdir)
    if not has_checkpoints(options.workdir):
        raise InputError(
            f"{options.workdir / CONFIG} is there, but no checkpoint, expected a run whose "
            "training has begun, so that its split is settled"
        )
    if options.data:
        config.data.root = options.data
    from lagseg_jax.data.run_split import load_split
    from lagseg_jax.evaluation.nnunet_export import check_output, export_dataset

    check_output(options.output)
    split = load_split(config, options.workdir)
    export_dataset(split, config.data, options.output, options.channel)
    log.info("%s: next, see docs/compare-with-nnunet.md", options.output)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
