"""case + interpreters -> its rows: outputs compared first, then everything timed in turn."""

import dataclasses
import tempfile
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
            _compare(case, sides, folder, deadline, result)
            costs = workers[OURS].call("costs")
            for part, rows in (("prediction", PREDICTION), ("training", TRAINING)):
                for row in rows:
                    if options.rows and row not in options.rows:
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


def _compare(case, sides, folder, deadline, result) -> None:
    """Outputs of every mode of the peer against ours, before anything is timed."""
    paths = {}
    for side, (worker, arguments) in sides.items():
        if side == NNUNET:
            continue
        paths[side] = folder / f"{side}.npz"
        try:
            worker.call("outputs", timeout=30 + deadline.left(), path=str(paths[side]), **arguments)
            if side != OURS:
                found = compare.differences(paths[OURS], paths[side])
                result["differences"][side] = found
                wrong = compare.too_large(found, case.dtype)
                result["wrong"] += [f"{name} of {side}" for name in wrong]
        except (WorkerError, ValueError) as error:
            if side == OURS:
                raise
            # An answer that cannot be compared is wrong; one that cannot be had is a problem.
            kind = "wrong" if isinstance(error, ValueError) else "problems"
            result[kind].append(f"{side}: {error}")


def _measure(row: str, sides: dict, options, deadline: Deadline) -> list[dict]:
    """One result per side that has this row."""
    found, calls = {}, {}
    for side, (worker, arguments) in sides.items():
        if side == NNUNET and row not in NNUNETS:
            continue
        if side in (EAGER, COMPILED) and row in OURS_ALONE:
            continue
        found[side] = {"row": row, "side": side}
        if not deadline.left():
            found[side]["skipped"] = f"the {deadline.minutes:g} minutes were used up (--minutes)"
            continue
        arguments = arguments | {"row": row, "timeout": 30 + deadline.left()}
        try:
            found[side] |= worker.call("prepare", **arguments)
            calls[side] = lambda count, worker=worker, arguments=arguments: worker.call(
                "measure", calls=count, **arguments
            )
        except WorkerError as error:
            found[side]["skipped"] = str(error)
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
        worker, arguments = sides[side]
        try:
            worker.call("forget", row=row, **arguments)
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
