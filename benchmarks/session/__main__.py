"""Measures in a few minutes what only a GPU can tell: bash benchmarks/gpu_session.sh

Parts, each with a time of its own, so that one that hangs does not eat the rest: `base`, `giant`,
`cpu` (first steps and speed of a training), `predict` (first and second start, many volumes),
`throughput` (how busy volumes keep the device), `accuracy` (ours and nnU-Net 2d, with
`--nnunet_python`) and `speed` (`python -m benchmarks --quick` in the time that is left).
OUTPUT/session.json is written with every row; the table is printed last.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.common import machine
from benchmarks.common.options import benchmark_parser, words
from benchmarks.session import parts
from benchmarks.session.runner import LeftOut, PartError, Session
from lagseg_jax.data.phantom import write_dataset
from lagseg_jax.reports.markdown import plain, table_head, table_row
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import InputError

# Most seconds of each part, in their order; the last one gets what is left.
PARTS: dict[str, tuple[Callable[[Session], None], float]] = {
    "base": (parts.base, 100),
    "predict": (parts.predict, 100),
    "cpu": (parts.cpu, 80),
    "throughput": (parts.throughput, 60),
    "giant": (parts.giant, 120),
    "accuracy": (parts.accuracy, 540),
    "speed": (parts.speed, 480),
}
# Of the phantoms; mm.
CASES, SHAPE, SPACING = 24, (199, 143, 88), (1.25, 1.25, 1.25)


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
    add("--accuracy_minutes", type=float, default=1.0, help="of training, of each arm")
    add("--tiny", action="store_true", help="everything at test sizes, on any device")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns 1 when a part could not be measured as a whole.

    Raises:
        InputError: the folder is there, or a part that is not, or there is no GPU.
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
    session = Session(options, folder, folder / "phantoms")
    session.result |= {"machine": machine.describe() | session.ask_jax(), "left out": []}
    if session.result["machine"]["platform"] == "cpu" and not options.tiny:
        raise InputError("JAX computes on the CPU here, expected a GPU, or --tiny for a trial")
    write_phantoms(session)
    for name in (name for name in PARTS if name in options.parts):
        part, most = PARTS[name]
        session.part, session.end = name, min(end, time.monotonic() + most * slow)
        measure(session, part)
    print(report(session.result))
    return int(bool(session.result["problems"]))


def write_phantoms(session: Session) -> None:
    """The dataset of all parts; of the size of a clinical volume, one takes ten seconds."""
    start, session.part = time.monotonic(), "phantoms"
    if session.options.tiny:
        write_dataset(session.data, 6, 0, (47, 43, 11), (2.5, 2.5, 5.0))
    else:
        processes = min(CASES, machine.cores())
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            write_dataset(session.data, CASES, 0, SHAPE, SPACING, each=pool.map)
    session.add("this part", time.monotonic() - start, "s")


def measure(session: Session, part: Callable[[Session], None]) -> None:
    """One part; what goes wrong is a sentence of the result."""
    start, result = time.monotonic(), session.result
    try:
        part(session)
    except LeftOut as error:
        result["left out"].append(str(error))
    except (PartError, OSError, ValueError, KeyError) as error:
        named = isinstance(error, PartError)
        result["problems"].append(str(error) if named else f"{session.part}: {error!r}")
    seconds = time.monotonic() - start
    session.add("this part", seconds, "s")
    print(f"{session.part}: {seconds:.0f} s", file=sys.stderr, flush=True)


def report(result: dict) -> str:
    """The table, and what could not be measured."""
    lines = table_head(["part", "what", "value"])
    for row in result["rows"]:
        value = f"{row['value']:.4g} {row['unit']}".strip()
        lines.append(table_row([row["part"], plain(row["what"]), value]))
    for title in ("problems", "left out"):
        if result[title]:
            lines += ["", f"{title.capitalize()}:", *(f"- {text}" for text in result[title])]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(exit_status(main))
