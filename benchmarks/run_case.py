"""case + interpreters -> its rows: outputs compared first, then everything timed in turn."""

import dataclasses
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import ceilings, compare
from benchmarks.cases import Case
from benchmarks.rounds import Deadline, in_turn, summary
from benchmarks.worker import Worker, WorkerError

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
OURS_ALONE = ("searched volume", "volume from file", "augmented train step", "input")
NNUNETS = ("volume", "searched volume")  # the same work of nnU-Net, in turn with each of ours
OURS, EAGER, COMPILED, NNUNET = "JAX", "PyTorch", "PyTorch compiled", "nnU-Net 2d"


def run_case(case: Case, options, deadline: Deadline, limits: list[dict]) -> dict:
    """Measures one case.

    Args:
        case: what.
        options: of the command line.
        deadline: rows that would start after it are left out.
        limits: rows of `benchmarks.ceilings` by all workers.

    Returns:
        {"case", "differences", "wrong", "rows", "peaks", "problems"}; `wrong` names the
        outputs that differ by more than the tolerance.
    """
    result = {"case": dataclasses.asdict(case), "title": case.title(), "rows": [], "problems": []}
    result |= {"differences": {}, "wrong": [], "peaks": []}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        folder, workers = Path(folder), {}
        try:
            sides = _open(case, options, deadline, folder, workers, result)
            _compare(case, sides, options.at_once, folder, deadline, result)
            costs = workers[OURS].call("costs")
            for part, rows in (("prediction", PREDICTION), ("training", TRAINING)):
                for row in rows:
                    if (wanted := options.rows or case.rows) and row not in wanted:
                        continue
                    result["rows"] += _measure(row, sides, options, deadline)
                result["peaks"] += _peaks(part, workers)
            for row in result["rows"]:
                _judge(row, costs, limits, case.dtype)
        except WorkerError as error:
            result["problems"].append(f"{case.title()}: {error}")
        finally:
            for worker in workers.values():
                worker.close()
    return result


def _open(case, options, deadline, folder, workers, result) -> dict:
    """Starts the workers; {side: (worker, further arguments)} of those that can take part."""
    log = folder / "workers.log"
    wanted = [(OURS, "benchmarks.ours", options.python)]
    if options.peer_modes:
        wanted.append(("peer", "benchmarks.peer", options.peer_python))
    if options.nnunet_python:
        wanted.append((NNUNET, "benchmarks.nnunet", options.nnunet_python))
    for name, module, python in wanted:
        try:
            worker = workers[name] = Worker(module, python, log)
            arguments = {"case": dataclasses.asdict(case)} if name == OURS else {}
            target = str(folder / "case")
            worker.call("open", timeout=30 + deadline.left(), folder=target, **arguments)
        except WorkerError as error:
            if name == OURS:
                raise
            result["problems"].append(f"{name} does not take part: {error}")
            workers.pop(name).close()
    sides = {OURS: (workers[OURS], {})}
    for mode in options.peer_modes if "peer" in workers else ():
        sides[EAGER if mode == "eager" else COMPILED] = (workers["peer"], {"mode": mode})
    if NNUNET in workers:
        sides[NNUNET] = (workers[NNUNET], {})
    return sides


def _each(sides: dict, call: Callable[[str], None], at_once: bool) -> None:
    """`call(side)` for every side; where `at_once`, workers do not wait for each other."""
    by_worker: dict[int, list[str]] = {}
    for side, (worker, _) in sides.items():
        by_worker.setdefault(id(worker), []).append(side)
    with ThreadPoolExecutor(len(by_worker) if at_once else 1) as pool:
        list(pool.map(lambda names: [call(name) for name in names], by_worker.values()))


def _compare(case, sides, at_once, folder, deadline, result) -> None:
    """Outputs of every mode of the peer against ours, before anything is timed."""
    paths = {side: folder / f"{side}.npz" for side in sides if side != NNUNET}

    def write(side: str) -> None:
        worker, arguments = sides[side]
        try:
            worker.call("outputs", timeout=30 + deadline.left(), path=str(paths[side]), **arguments)
        except WorkerError as error:
            if side == OURS:
                raise
            result["problems"].append(f"{side}: {error}")
            del paths[side]

    _each({side: sides[side] for side in list(paths)}, write, at_once)
    for side in paths:
        if side == OURS:
            continue
        try:
            found = compare.differences(paths[OURS], paths[side])
        except ValueError as error:  # an answer that cannot be compared is wrong
            result["wrong"].append(f"{side}: {error}")
            continue
        result["differences"][side] = found
        result["wrong"] += [f"{name} of {side}" for name in compare.too_large(found, case.dtype)]


def _measure(row: str, sides: dict, options, deadline: Deadline) -> list[dict]:
    """One result per side that has this row."""
    found: dict[str, dict] = {}
    for side in sides:
        if side == NNUNET and row not in NNUNETS:
            continue
        if side in (EAGER, COMPILED) and row in OURS_ALONE:
            continue
        found[side] = {"row": row, "side": side}
        if not deadline.left():
            found[side]["skipped"] = f"the {deadline.minutes:g} minutes were used up (--minutes)"
    told = {side: sides[side][1] | {"row": row} for side in found}

    def prepare(side: str) -> None:
        try:
            found[side] |= sides[side][0].call(
                "prepare", timeout=30 + deadline.left(), **told[side]
            )
        except WorkerError as error:
            found[side]["skipped"] = str(error)

    ready = {side: sides[side] for side in found if "skipped" not in found[side]}
    _each(ready, prepare, options.at_once)
    calls = {
        side: lambda count, side=side: sides[side][0].call(
            "measure", timeout=30 + deadline.left(), calls=count, **told[side]
        )
        for side in ready
        if "skipped" not in found[side]
    }
    try:
        timings = in_turn(calls, options.rounds, options.seconds)
    except WorkerError as error:
        for side in calls:
            found[side]["skipped"] = str(error)
    else:
        for side, seconds in timings.items():
            found[side]["seconds"] = summary(seconds)
            compiling = found[side]["first_seconds"] - found[side]["seconds"]["median"]
            found[side].setdefault("compile_seconds", max(0.0, compiling))
    for side in calls:
        try:
            sides[side][0].call("forget", **told[side])
        except WorkerError as error:
            found[side].setdefault("skipped", str(error))
    return list(found.values())


def _peaks(part: str, workers: dict) -> list[dict]:
    """Largest memory so far of each worker."""
    found = []
    for name, worker in workers.items():
        if name == NNUNET:
            continue
        try:
            found.append({"part": part, "side": name, "bytes": worker.call("peak_bytes")})
        except WorkerError:
            continue  # its rows say why it is gone
    return found


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
