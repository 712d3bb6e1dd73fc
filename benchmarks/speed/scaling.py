"""Measures how cost grows with slices and depth, how often XLA compiles, and how commands start."""

import argparse
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common.timing import Deadline, timed
from benchmarks.common.worker import ROOT, Worker, WorkerError

NO_TIME = "the time was used up (--minutes)"


def measure_scaling(
    options: argparse.Namespace, backend: str, deadline: Deadline, result: dict, folder: Path
) -> None:
    """Adds to `result`; each part that cannot run says why, and the others go on."""
    for command, arguments in _parts(options, backend, folder):
        if not deadline.left():
            result["problems"].append(f"{command}: {NO_TIME}")
            continue
        worker = Worker("benchmarks.speed.scaling_worker", options.python, folder / "log")
        with worker:
            try:
                rows = worker.call(command, timeout=deadline.patience(), **arguments)
                result["scaling"] += rows or []
            except WorkerError as error:
                result["problems"].append(str(error))
    if not deadline.left():
        result["problems"].append(f"first start: {NO_TIME}")
        return
    try:
        result["scaling"] += two_starts(options.python, folder, deadline.patience())
    except (RuntimeError, OSError) as error:
        result["problems"].append(f"first start: {error}")


def _parts(
    options: argparse.Namespace, backend: str, folder: Path
) -> Iterator[tuple[str, dict[str, object]]]:
    """The worker's commands and their arguments; `write_run` is for the starts."""
    variant, size, dtype = "base", 448, "bfloat16"
    if backend == "cpu":
        variant, size, dtype = "tiny", 196, "float32"
    counts, large = [8, 88, 1000], {"size": 448, "batch": 8, "dtype": "bfloat16"}
    variants, deep = ["small", "giant"], "small"
    if options.tiny:
        size, counts, variants, deep = 28, [2, 3], ["tiny"], "tiny"
        large = {"size": 28, "batch": 2, "dtype": "float32"}
    case = {"variant": variant, "size": size, "batch": 8, "dtype": dtype}
    case |= {"predict_batch": options.predict_batch or 8, "shape": options.shape}
    yield "slices", {"case": case, "counts": counts}
    yield "compile_time", {"variants": variants} | large
    yield "depth_memory", {"variant": deep} | large
    yield "compilations", {"case": case}
    yield "write_run", {"case": case, "folder": str(folder)}


def two_starts(python: str, folder: Path, timeout: float) -> list[dict]:
    """Runs `python -m lagseg_jax.predict` twice with an empty compilation cache of its own.

    Nothing is set but where the user's caches lie, so the second start is what users see.

    Args:
        python: interpreter.
        folder: with `run/` and `volume.nii.gz` of `scaling_worker.write_run`.
        timeout: of each, in seconds.

    Raises:
        RuntimeError: the command failed.
    """
    environment = {"CUDA_VISIBLE_DEVICES": "0"} | os.environ
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [python, "-m", "lagseg_jax.predict", f"--workdir={folder / 'run'}"]
    command += ["-i", str(folder / "volume.nii.gz"), "-o"]

    def start(output: Path) -> None:
        given = {"cwd": ROOT, "env": environment, "timeout": timeout}
        try:
            done = subprocess.run([*command, str(output)], capture_output=True, text=True, **given)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(str(error)) from None
        if done.returncode:
            raise RuntimeError(f"lagseg_jax.predict failed: {done.stderr.strip()[-200:]}")

    starts = {name: timed(lambda name=name: start(folder / name)) for name in ("first", "second")}
    return [
        {"what": f"{name} start of predict, one volume", "value": seconds, "unit": "s"}
        for name, seconds in starts.items()
    ]
