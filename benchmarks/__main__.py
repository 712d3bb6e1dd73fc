"""Measures this project beside the same model in PyTorch: python -m benchmarks --quick.

Prints Markdown and writes JSON. On the CPU: ViT-S at 448 pixels and the laptop recipe; on a GPU:
ViT-g and ViT-B at 448 pixels with batches of 32. The exit status is 1 when outputs differ.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import machine
from benchmarks.common.options import benchmark_parser, numbers, words
from benchmarks.common.timing import Deadline
from benchmarks.common.worker import Worker, WorkerError
from benchmarks.speed.cases import choose
from benchmarks.speed.run_case import PREDICTION, TRAINING, run_case
from benchmarks.speed.scaling import NO_TIME, measure_scaling
from benchmarks.speed.table import report
from lagseg_jax.runtime.files import write_json

FOR_SCALING = {"cpu": 0.2, "gpu": 0.1}  # of the time


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = benchmark_parser("benchmarks", __doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="under 10 minutes on 2 cores, 8 on a GPU")
    add("--output", type=Path, default=Path("benchmarks.json"), help="JSON result")
    add("--variants", type=words, help="of the encoder, separated by commas")
    add("--sizes", type=numbers, help="of the image in pixels")
    add("--dtypes", type=words, help="bfloat16,float32")
    add("--batch", type=int, help="slices per training step")
    add("--predict_batch", type=int, help="slices at a time of a volume")
    add("--shape", type=numbers, default=[199, 143, 88], help="x,y,z of the volume")
    add("--rows", type=words, help=f"some of: {'; '.join(PREDICTION + TRAINING)}")
    add("--python", default=sys.executable, help="interpreter that has jax")
    add("--peer_python", default=sys.executable, help="interpreter that has torch, transformers")
    add("--nnunet_python", help="interpreter that has nnunetv2 (default: none)")
    add(
        "--peer_modes",
        type=words,
        help="eager,compile (quick: eager on CPUs, else compile); '': none",
    )
    add("--rounds", type=int, default=3, help="of every side in turn")
    add("--seconds", type=float, help="of one side's round, at least a call (default: 3; quick: 2)")
    add("--minutes", type=float, help="no row starts later (default: 60; quick: 9, on a GPU 7)")
    add("--no_scaling", action="store_true", help="leave out how cost grows")
    add("--tiny", action="store_true", help="ceilings and scaling at test sizes")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measures; returns the exit status: 0, or 1 when outputs differ or nothing was measured."""
    start, options = time.monotonic(), parse_arguments(arguments)
    result = {"machine": machine.describe(), "software": {}, "ceilings": []}
    result |= {"cases": [], "scaling": [], "problems": []}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        backend = measure_ceilings(options, result, Path(folder))
        set_defaults(options, backend)
        deadline = Deadline(options.minutes, start)
        rest = 0 if options.no_scaling else FOR_SCALING["cpu" if backend == "cpu" else "gpu"]
        share = Deadline(options.minutes * (1 - rest), start)
        for case in choose(backend, options):
            if not share.left():
                result["problems"].append(f"{case.title()}: {NO_TIME}")
                continue
            tell(case.title())
            found = run_case(case, options, share, result["ceilings"])
            result["cases"].append(found)
            result["problems"] += found["problems"]
            write_json(options.output, result)
        if not options.no_scaling:
            tell("as work grows")
            measure_scaling(options, backend, deadline, result, Path(folder))
    print(report(result))
    write_json(options.output, result)
    tell(f"written to {options.output}")
    wrong = [name for case in result["cases"] for name in case["wrong"]]
    return 1 if wrong or not any(case["rows"] for case in result["cases"]) else 0


def set_defaults(options: argparse.Namespace, backend: str) -> None:
    """What was not given, by backend; quick has time for one of the peer's modes."""
    # Compiling side by side pays where there are many cores, and what is timed is not on them.
    options.at_once = backend != "cpu"
    if options.peer_modes is None:
        quick = ["eager"] if backend == "cpu" else ["compile"]
        options.peer_modes = quick if options.quick else ["eager", "compile"]
    if options.seconds is None:
        options.seconds = 2.0 if options.quick else 3.0
    if options.minutes is None:
        options.minutes = (9 if backend == "cpu" else 7) if options.quick else 60


def measure_ceilings(options, result: dict, folder: Path) -> str:
    """Fills in software and ceilings of both frameworks; returns JAX's backend.

    Raises:
        SystemExit: JAX itself does not start.
    """
    tell("what the device can do")
    sides = {"JAX": ("of_jax", options.python), "PyTorch": ("of_torch", options.peer_python)}
    for side, (command, python) in sides.items():
        if side == "PyTorch" and options.peer_modes == []:
            continue
        with Worker("benchmarks.speed.ceilings", python, folder / "log") as worker:
            try:
                facts = worker.call(command, timeout=120, tiny=options.tiny)
                rows = facts.pop("rows")
                result["software"][side] = facts | {"malloc": worker.call("malloc")}
                result["ceilings"] += [row | {"side": side} for row in rows]
            except WorkerError as error:
                if side == "JAX":
                    raise SystemExit(f"{python} cannot run the JAX side: {error}") from None
                result["problems"].append(f"{side}: {error}")
    return result["software"]["JAX"]["backend"]


def tell(text: str) -> None:
    """Progress, apart from the table."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
