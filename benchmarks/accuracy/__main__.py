"""Compares our accuracy with a U-Net's and nnU-Net's that trained equally long on equal cases.

    python -m benchmarks.accuracy --data=DATASET --minutes=10 --seeds=2 --workdir=runs/accuracy

Every arm trains on the same cases, for the same time on the same cores (compilation, validation and
checkpoints included), and is judged on the same held-out cases, whole volumes in their own grid, by
lagseg_jax.evaluation.metrics. Ours are runs of `--config`, and of the arms of a study file (see
lagseg_jax.study) as changes of it; with their steps chosen by a measurement before the first run of
an arm, which other seeds and numbers of patients keep. The U-Net sees slices prepared in the same
way and augmented as `--config` says. nnU-Net (`--nnunet_python`) is itself: its plan, augmentation
and loss; planning and preprocessing do not count. The masks of all are cleaned in the same way.
`--train_patients=2,4,8` trains every arm on so many of the training patients, for a curve. The same
command goes on where it was interrupted: finished arms stay, others begin anew. WORKDIR gets
table.md, table.csv, study.json, runs.json, and curve.svg and curve.png.
"""

import argparse
import queue
import signal
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from benchmarks.accuracy.arms import (
    LOG,
    NNUNETS,
    Arm,
    arms_of,
    configure,
    core_slots,
    run_folder,
    run_job,
)
from benchmarks.accuracy.interpreters import check_interpreters
from benchmarks.accuracy.record import Record
from benchmarks.common.options import benchmark_parser
from benchmarks.common.worker import WorkerError
from lagseg_jax.data.run_split import load_split
from lagseg_jax.runs.lock import locked
from lagseg_jax.runs.workdir import write_config
from lagseg_jax.runtime.console import say_error
from lagseg_jax.runtime.errors import InputError

Item = TypeVar("Item")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = benchmark_parser("benchmarks.accuracy", __doc__)

    def numbers(text):
        return _each(int, text, lambda number: number > 0, "numbers from 1")

    def configurations(text):
        return _each(str, text, NNUNETS.__contains__, "some of " + ", ".join(NNUNETS))

    add = parser.add_argument
    add("--data", required=True, help="dataset folder")
    add("--workdir", type=Path, required=True, help="of all runs and the table")
    add("--config", default="configs/cpu.py", help="ours")
    add("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="changes of it")
    add("--study", help="its arms take the place of the config as it is")
    add("--arms", help="only these arms, separated by commas")
    add("--no_peer", action="store_true", help="leave the U-Net out")
    add("--minutes", type=float, default=10.0, help="of training, of every arm")
    add("--seeds", type=int, default=2, help="runs of every arm")
    add("--counts", default="14,2,8", help="training, validation and test patients")
    add("--peer_size", type=int, help="of the U-Net's images (default: ours or the next above)")
    add("--train_patients", type=numbers, default=[], help="a curve: every arm with so many")
    add("--side_by_side", type=int, default=1, help="arms at a time, each on its share of cores")
    about = "wall: minutes go by; cpu: only those in which the arm computes, on one core each"
    add("--clock", choices=("wall", "cpu"), default="wall", help=about)
    add("--python", default=sys.executable, help="interpreter that has jax")
    add("--peer_python", default=sys.executable, help="interpreter that has torch")
    add("--nnunet_python", help="interpreter that has nnunetv2 (default: no nnU-Net)")
    add("--nnunet", type=configurations, default=["2d", "3d_fullres"], help="its configurations")
    about = "of the GPU that nnU-Net plans for (default: its own); less: smaller batches"
    add("--nnunet_memory", type=float, metavar="GB", help=about)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Trains and judges what is not there yet; returns 1 if a run failed."""
    options = parse_arguments(arguments)
    with locked(options.workdir):
        base = configure(options, {})
        arms, reference = arms_of(options, base)
        load_split(base, options.workdir)  # what is wrong with the data is said now
        write_config(options.workdir, base)  # the same command finds the split to be its own
        _check_patients(options)
        slots = core_slots(options.side_by_side)
        if options.clock == "cpu" and len(slots[0]) > 1:
            raise SystemExit("--clock=cpu is for arms on one core each: give --side_by_side=CORES")
        record = Record(options, arms, reference)
        _run_missing(options, arms, record, slots)
        print(record.write())
        return 1 if record.failures else 0


def _each(
    read: Callable[[str], Item], text: str, fits: Callable[[Item], bool], expected: str
) -> list[Item]:
    """The words of an option, between commas, each of which fits; for argparse."""
    try:
        found = [read(word) for word in text.split(",")]
        if all(map(fits, found)):
            return found
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}, expected {expected}, separated by commas")


def _check_patients(options: argparse.Namespace) -> None:
    """Refuses a point of the curve that there are too few patients for, before the first trains."""
    if options.train_patients:
        most = configure(options, {"data.train_patients": max(options.train_patients)})
        with tempfile.TemporaryDirectory() as folder:
            load_split(most, Path(folder))


def _run_missing(
    options: argparse.Namespace, arms: dict[str, Arm], record: Record, slots: list[list[int]]
) -> None:
    """Trains and judges what the record lacks, one arm at a time in each slot of cores."""
    jobs = [(arm, seed) for seed in range(options.seeds) for arm in arms]
    missing = [job for job in jobs if not record.has(*job)]
    check_interpreters(options, [arms[arm] for arm, _ in missing])
    free: queue.Queue[list[int]] = queue.Queue()
    for slot in slots:
        free.put(slot)

    def run(job: tuple[str, int]) -> None:
        cores = free.get()
        try:
            record.add(*job, run_job(options, arms, *job, cores, record.steps(job[0])))
        except WorkerError as error:
            record.failed(*job, f"{error} (log: {run_folder(options, *job) / LOG})")
        except (InputError, OSError) as error:
            record.failed(*job, str(error))
        finally:
            free.put(cores)

    with ThreadPoolExecutor(len(slots)) as pool:
        list(pool.map(run, missing))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once: its workers see that it is gone
    try:
        sys.exit(main())
    except InputError as problem:
        say_error(f"error: {problem}")
        sys.exit(2)
