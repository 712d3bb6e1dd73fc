"""Says what is there to work with, at once: python -m lagseg_jax.info [--json] [--weights=...].

Devices are not touched: that takes seconds, and takes them away from others.
"""

import argparse
import json
import sys
from pathlib import Path

from lagseg_jax.reports.installation import installation, installation_text
from lagseg_jax.runtime.console import exit_status, say


def main(arguments: list[str] | None = None) -> int:
    """Prints; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lagseg_jax.info", description="What there is to work with, at once."
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--weights",
        nargs="+",
        type=Path,
        default=[Path("weights")],
        metavar="FOLDER",
        help="where converted weights lie, or folders of them (default: weights)",
    )
    options = parser.parse_args(arguments)
    info = installation(options.weights)
    say(json.dumps(info, indent=2) if options.json else installation_text(info))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
