"""Measures one case: the outputs of all sides compared first, then everything timed in turn."""

import argparse
import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.common.timing import Deadline, in_turn, summary
from benchmarks.common.worker import Worker, WorkerError
from benchmarks.speed import ceilings, compare
from benchmarks.speed.cases import Case

# In the order of the memory they take, so that the peaks mean something.
PREDICTION = ("encoder", "fused encoder", "volume", "searched volume", "volume from file")
TRAINING = (
    "head forward",
    "head forward+backward",
    "optimiser",
    "train step",
    "augmented train step",
    "input",
)
OURS, EAGER, COMPILED, NNUNET = "JAX", "PyTorch", "PyTorch compiled", "nnU-Net 2d"
OURS_ALONE = ("searched volume", "volume from file", "augmented train step", "input")
NNUNETS = ("volume", "searched volume")  # the same work of nnU-Net, in turn with each of ours


@dataclasses.dataclass(frozen=True)
class Side:
    """One column of the table: a worker, and what all its commands are told.

    Attributes:
        name: of the column.
        worker: that may serve several sides.
        arguments: the mode, if it has several.
        deadline: of the case; no answer is waited for much longer.
    """

    name: str
    worker: Worker
    arguments: dict[str, str]
    deadline: Deadline

    def call(self, command: str, **arguments):
        """The worker's answer; raises WorkerError."""
        told = self.arguments | arguments
        return self.worker.call(command, timeout=self.deadline.patience(), **told)

    def has(self, row: str) -> bool:
        """Whether the row is measured on this side."""
        if self.name == NNUNET:
            return row in NNUNETS
        return self.name == OURS or row not in OURS_ALONE


def run_case(
    case: Case, options: argparse.Namespace, deadline: Deadline, limits: list[dict]
) -> dict:
    """Measures one case.

    Args:
        case: what.
        options: of the command line.
        deadline: rows that would start after it are left out.
        limits: rows of `speed.ceilings` by all workers.

    Returns:
        {"case", "differences", "wrong", "rows", "peaks", "problems"}; `wrong` names the
        outputs that differ by more than the tolerance.
    """
    result = {"case": dataclasses.asdict(case), "title": case.title(), "rows": [], "problems": []}
    result |= {"differences": {}, "wrong": [], "peaks": []}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        try:
            sides = _open(case, options, deadline, folder, stack, result)
            _compare(case, sides, options.at_once, folder, result)
            costs = sides[0].call("costs")
            for part, rows in (("prediction", PREDICTION), ("training", TRAINING)):
                for row in rows:
                    if row in (options.rows or case.rows or rows):
                        result["rows"] += _measure(row, sides, options)
                result["peaks"] += _peaks(part, sides)
            for row in result["rows"]:
                _judge(row, costs, limits, case.dtype)
        except WorkerError as error:
            result["problems"].append(f"{case.title()}: {error}")
    return result


def _open(case, options, deadline, folder, stack, result) -> list[Side]:
    """Starts the workers; the sides that can take part, ours first."""
    modes = {EAGER if mode == "eager" else COMPILED: mode for mode in options.peer_modes}
    wanted = [("benchmarks.speed.jax_worker", options.python, {OURS: {}})]
    if modes:
        columns = {name: {"mode": mode} for name, mode in modes.items()}
        wanted.append(("benchmarks.speed.torch_worker", options.peer_python, columns))
    if options.nnunet_python:
        wanted.append(("benchmarks.paper.nnunet", options.nnunet_python, {NNUNET: {}}))
    sides: list[Side] = []
    for module, python, columns in wanted:
        worker = stack.enter_context(Worker(module, python, folder / "workers.log"))
        told = {} if sides else {"case": dataclasses.asdict(case)}
        try:
            worker.call("open", timeout=deadline.patience(), folder=str(folder / "case"), **told)
        except WorkerError as error:
            if not sides:
                raise
            result["problems"].append(f"{', '.join(columns)} does not take part: {error}")
            continue
        sides += [Side(name, worker, told, deadline) for name, told in columns.items()]
    return sides


def _each(sides: Sequence[Side], call: Callable[[Side], None], at_once: bool) -> None:
    """`call(side)` for every side; where `at_once`, workers do not wait for each other."""
    by_worker: dict[int, list[Side]] = {}
    for side in sides:
        by_worker.setdefault(id(side.worker), []).append(side)
    with ThreadPoolExecutor(max(1, len(by_worker)) if at_once else 1) as pool:
        list(pool.map(lambda group: [call(side) for side in group], by_worker.values()))


def _compare(case, sides: list[Side], at_once: bool, folder: Path, result: dict) -> None:
    """Outputs of every mode of PyTorch against ours, before anything is timed."""
    paths: dict[str, Path] = {}

    def write(side: Side) -> None:
        path = folder / f"{side.name}.npz"
        try:
            side.call("outputs", path=str(path))
        except WorkerError as error:
            if side.name == OURS:
                raise
            result["problems"].append(f"{side.name}: {error}")
        else:
            paths[side.name] = path

    _each([side for side in sides if side.name != NNUNET], write, at_once)
    ours = paths.pop(OURS)
    for name, path in paths.items():
        try:
            found = compare.differences(ours, path)
        except ValueError as error:  # an answer that cannot be compared is wrong
            result["wrong"].append(f"{name}: {error}")
            continue
        result["differences"][name] = found
        result["wrong"] += [f"{what} of {name}" for what in compare.too_large(found, case.dtype)]


def _measure(row: str, sides: list[Side], options: argparse.Namespace) -> list[dict]:
    """One result per side that has this row."""
    sides = [side for side in sides if side.has(row)]
    found = {side.name: {"row": row, "side": side.name} for side in sides}

    def skip(side: Side, reason: object) -> None:
        found[side.name].setdefault("skipped", str(reason))

    def prepare(side: Side) -> None:
        if not side.deadline.left():
            skip(side, f"the {side.deadline.minutes:g} minutes were used up (--minutes)")
            return
        try:
            found[side.name] |= side.call("prepare", row=row)
        except WorkerError as error:
            skip(side, error)

    _each(sides, prepare, options.at_once)
    ready = [side for side in sides if "skipped" not in found[side.name]]
    try:
        calls = {side.name: functools.partial(_seconds, side, row) for side in ready}
        timings = in_turn(calls, options.rounds, options.seconds)
    except WorkerError as error:
        for side in ready:
            skip(side, error)
    else:
        for name, seconds in timings.items():
            found[name]["seconds"] = summary(seconds)
            compiling = found[name]["first_seconds"] - found[name]["seconds"]["median"]
            found[name].setdefault("compile_seconds", max(0.0, compiling))
    for side in ready:
        try:
            side.call("forget", row=row)
        except WorkerError as error:
            skip(side, error)
    return list(found.values())


def _seconds(side: Side, row: str, calls: int) -> list[float]:
    return side.call("measure", row=row, calls=calls)


def _peaks(part: str, sides: list[Side]) -> list[dict]:
    """Largest memory so far of each worker but nnU-Net's."""
    found = []
    for side in {id(s.worker): s for s in sides[::-1] if s.name != NNUNET}.values():
        with contextlib.suppress(WorkerError):  # its rows say why it is gone
            used = side.worker.call("peak_bytes")
            found.append({"part": part, "side": side.name, "bytes": used})
    return found[::-1]


def _judge(row: dict, costs: dict, limits: list[dict], dtype: str) -> None:
    """Adds FLOPs, bytes and the fractions of the device's ceilings that were reached."""
    if row["side"] == NNUNET or "seconds" not in row or row["row"] not in costs:
        return
    work, seconds = costs[row["row"]], row["seconds"]["median"]
    row |= {"flops": work["flops"], "bytes": work["bytes"]}
    matmul, copy = ceilings.best(limits, dtype), ceilings.best(limits, "")
    if matmul and copy:
        row["matmul_fraction"] = work["flops"] / seconds / matmul
        row["roofline_fraction"] = ceilings.roofline_seconds(work["layers"], matmul, copy) / seconds
