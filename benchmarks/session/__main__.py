"""Measures in a few minutes what only a GPU can tell: bash benchmarks/gpu_session.sh

Parts, each with a time of its own, so that one that hangs does not eat the rest: `base`, `giant`,
`cpu` (first step and speed of a training), `predict` (first and second start, many volumes),
`throughput` (how busy volumes keep the device), `accuracy` (ours and nnU-Net 2d, with
`--nnunet_python`) and `speed` (`python -m benchmarks --quick` in the time that is left).
OUTPUT/session.json is written after each; the table is printed last.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import machine
from benchmarks.common.options import benchmark_parser, words
from benchmarks.session import parts
from benchmarks.session.runner import PartError, Session
from lagseg_jax.data.phantom import write_dataset
from lagseg_jax.reports.markdown import plain, table_head, table_row
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_json

# Most seconds of each part, in their order; the last one gets what is left.
PARTS: dict[str, tuple[Callable[[Session], None], float]] = {
    "base": (parts.base, 80),
    "predict": (parts.predict, 90),
    "throughput": (parts.throughput, 40),
    "giant": (parts.giant, 80),
    "cpu": (parts.cpu, 50),
    "accuracy": (parts.accuracy, 360),
    "speed": (parts.speed, 480),
}
SHAPE, SPACING = (199, 143, 88), (1.25, 1.25, 1.25)  # of the phantoms; mm


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = benchmark_parser("benchmarks.session", __doc__)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="new folder")
    add("--minutes", type=float, default=12.0, help="of all parts")
    add("--parts", type=words, default=list(PARTS), help=f"some of {','.join(PARTS)}")
    add("--python", default=sys.executable, help="interpreter that has jax")
    add("--peer_python", help="interpreter that has torch, transformers (default: the same)")
    add("--nnunet_python", help="interpreter that has nnunetv2 (default: no accuracy)")
    add("--data", help="dataset folder of the accuracy part (default: phantoms)")
    add("--counts", default="14,2,8", help="training, validation and test patients of it")
    add("--config", default="configs/scratch.py", help="ours, in the accuracy part")
    add("--accuracy_minutes", type=float, default=2.0, help="of training, of each arm")
    add("--tiny", action="store_true", help="everything at test sizes, on any device")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns 1 when a part could not be measured as a whole.

    Raises:
        InputError: the folder is there, or a part that is not.
    """
    options = parse_arguments(arguments)
    if options.output.exists():
        raise InputError(f"{options.output} is there, expected the name of a new folder")
    if unknown := set(options.parts) - set(PARTS):
        raise InputError(f"--parts names {min(unknown)!r}, expected some of {', '.join(PARTS)}")
    slow = 10 if options.tiny else 1  # a CPU, and one that others use as well
    end = time.monotonic() + 60 * options.minutes * slow
    folder = options.output.resolve()
    folder.mkdir(parents=True)
    shape, spacing = ((47, 43, 11), (2.5, 2.5, 5.0)) if options.tiny else (SHAPE, SPACING)
    data = write_dataset(folder / "phantoms", 6 if options.tiny else 24, 0, shape, spacing)
    session = Session(options, folder, data)
    result = {"machine": machine.describe(), "rows": session.rows, "problems": []}
    for name in (name for name in PARTS if name in options.parts):
        part, most = PARTS[name]
        start = time.monotonic()
        session.part, session.end = name, min(end, start + most * slow)
        try:
            part(session)
        except (PartError, OSError, ValueError, KeyError) as error:
            result["problems"].append(f"{name}: {error!r}" if not str(error) else str(error))
        session.add("this part", time.monotonic() - start, "s")
        write_json(folder / "session.json", result)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(report(result))
    return int(bool(result["problems"]))


def report(result: dict) -> str:
    """The table, and what could not be measured."""
    lines = table_head(["part", "what", "value"])
    for row in result["rows"]:
        value = f"{row['value']:.4g} {row['unit']}".strip()
        lines.append(table_row([row["part"], plain(row["what"]), value]))
    lines += ["", "Not measured:"] if result["problems"] else []
    return "\n".join([*lines, *(f"- {problem}" for problem in result["problems"])])


if __name__ == "__main__":
    sys.exit(exit_status(main))
