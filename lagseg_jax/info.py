"""Says what is there to work with, at once: python -m lagseg_jax.info [--json] [--weights=...].

With a DICOM study, the series that it holds: python -m lagseg_jax.info STUDY. Devices are not
touched: that takes seconds, and takes them away from others.
"""

import json
import sys
from pathlib import Path

from lagseg_jax.imaging.dicom_choice import study_text
from lagseg_jax.reports.installation import installation, installation_text
from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import exit_status, say


def main(arguments: list[str] | None = None) -> int:
    """Prints; returns the exit status."""
    parser = command_parser("info", "No device is touched.")
    add = parser.add_argument_group("what to look for, and how to print it").add_argument
    add("--json", action="store_true", help="for programs")
    add(
        "--weights",
        nargs="+",
        type=Path,
        default=[Path("weights")],
        metavar="FOLDER",
        help="where converted weights lie, or folders of them (default: weights)",
    )
    add(
        "study",
        nargs="?",
        type=Path,
        metavar="STUDY",
        help="a DICOM study (folder or .zip): lists its series, and which one predict takes",
    )
    options = parser.parse_args(arguments)
    if options.study is not None:
        say(*study_text(options.study))
        return 0
    info = installation(options.weights)
    say(json.dumps(info, indent=2) if options.json else installation_text(info))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
