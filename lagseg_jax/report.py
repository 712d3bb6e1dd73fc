"""Writes the report of an evaluation again: python -m lagseg_jax.report WORKDIR.

An evaluation writes the report itself; this only reads the files that it left, without jax.
"""

import sys
from pathlib import Path

from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import exit_status, log, log_to_console


def main(arguments: list[str] | None = None) -> int:
    """Writes the report; returns the exit status."""
    parser = command_parser("report", "Only files in the workdir are read.")
    add = parser.add_argument_group("the run").add_argument
    add("workdir", type=Path, help="folder of a run that was evaluated, or of one evaluation")
    options = parser.parse_args(arguments)
    log_to_console()
    from lagseg_jax.reports.page import write_report

    folder = options.workdir
    is_evaluation = (folder / "summary.json").exists()
    log.info("%s", write_report(folder if is_evaluation else folder / "evaluation"))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
