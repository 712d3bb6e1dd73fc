"""A study: which runs it consists of, and how they are started one after the other."""

import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import ClassVar, Protocol

import ml_collections

from lagseg_jax.config.shipped import find_config
from lagseg_jax.config.validate import flat_fields
from lagseg_jax.runs.workdir import has_checkpoints, read_config
from lagseg_jax.runtime.console import log, printable
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.signals import PARENT, SIGNALS

# Where and how fast, not what is computed: these may differ between the starts of a study.
MAY_CHANGE = {"data.root", "data.images", "data.labels"}
MAY_CHANGE |= {"data.max_gb", "data.cache_dir", "data.cache_gb", "data.read_threads"}
MAY_CHANGE |= {"encoder.weights", "train.checkpoint_every", "train.log_every", "predict.batch_size"}
MAY_CHANGE |= {"train.cache_features", "train.feature_cache_gb"}
# "error: ..." of our own command lines, and the line of a traceback that says what happened.
ERROR = re.compile(r"error: |[\w.]*(Error|Exception)\b")


class Job(Protocol):
    """What a study starts in a process of its own: a run, or a test of it on another dataset."""

    @property
    def module(self) -> str:
        """The command."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of the command."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def workdir(self) -> Path:
        """Where its results are."""

    @property
    def ready(self) -> bool:
        """Whether all that it needs is there."""

    @property
    def finished(self) -> bool:
        """Whether its results are there."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a study.

    Attributes:
        arm: its name in the study file.
        fold: of the cross-validation; -1 without one.
        seed: `config.seed`.
        workdir: of the run.
        arguments: of `lagseg_jax.main`.
        config: what they amount to.
    """

    arm: str
    fold: int
    seed: int
    workdir: Path
    arguments: tuple[str, ...]
    config: ml_collections.ConfigDict
    module: ClassVar[str] = "lagseg_jax.main"
    ready: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """For messages: "ARM fold0 seed0"."""
        return f"{self.arm} fold{self.fold} seed{self.seed}".replace(" fold-1", "")

    @property
    def finished(self) -> bool:
        """Whether its evaluation is there."""
        files = ("per_case.csv", "summary.json")
        return all((self.workdir / "evaluation" / file).exists() for file in files)


def read_study(path: str, config: ml_collections.ConfigDict, only: list[str]) -> dict:
    """Loads a study file and checks what it returns.

    Args:
        path: a Python file with `get_study(config)`.
        config: the base config, with the changes of the command line.
        only: names of the arms to keep; empty keeps all.

    Raises:
        InputError: no such file, no such function, or arms that cannot be used.
    """
    path = find_config("--study", path)
    spec = importlib.util.spec_from_file_location("study_file", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--study is {path}, expected a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_study"):
        raise InputError(f"{path} has no function get_study(config), expected a study file")
    study = {"curve": False, "cross_test": False} | module.get_study(config)
    unknown = [name for name in only if name not in study["arms"]]
    if unknown:
        raise InputError(
            f"--arms names {unknown[0]!r}, expected some of {', '.join(study['arms'])}"
        )
    study["arms"] = {n: a for n, a in study["arms"].items() if not only or n in only}
    if study["reference"] not in (None, *study["arms"]):
        raise InputError(
            f"{path}: the reference arm {study['reference']!r} is not among the arms "
            f"{', '.join(study['arms'])}, expected it to be there to compare with"
        )
    for name in study["arms"]:
        if not re.fullmatch(r"\w[\w.-]*", name):  # a folder is called like it
            raise InputError(f"{path}: arm {name!r} found, expected letters, digits, '_', '-', '.'")
    return study


def check_unchanged(run: Run) -> None:
    """Raises InputError if the folder holds a run with another config: no table may mix them."""
    if not (run.finished or has_checkpoints(run.workdir)):
        return
    before, now = flat_fields(read_config(run.workdir)), flat_fields(run.config)
    for field in sorted(now.keys() - MAY_CHANGE):
        if before[field] != now[field]:
            raise InputError(
                f"config.{field} is {now[field]!r}, but {run.workdir} was trained with "
                f"{before[field]!r}, expected the same value or another --workdir"
            )


def start_run(run: Job, stopped: list[int]) -> tuple[int, str]:
    """Does what is to do in a process of its own, and waits for it.

    Args:
        run: what to do.
        stopped: gets the number of a signal that arrives meanwhile. The run gets it, too, so that
            it can save its state.

    Returns:
        Its exit status, and the last error (or else the last line) that it printed.
    """
    # In a process group of its own, the run gets every signal once: from here. If this process is
    # killed, the run ends by itself.
    process = subprocess.Popen(
        [sys.executable, "-m", run.module, *run.arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
        env=os.environ | {PARENT: str(os.getpid())},
    )

    def forward(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        process.send_signal(number)

    handlers = {n: signal.signal(n, forward) for n in SIGNALS}
    line = problem = ""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(printable(f"[{run.name}] {line}"), end="", file=sys.stderr, flush=True)
            if ERROR.match(line):
                problem = line
        return process.wait(), (problem or line).strip()
    finally:
        process.stdout.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run_study(
    workdir: Path,
    runs: Sequence[Job],
    publish: Callable[[dict[str, str]], str],
    start: Callable[[Job, list[int]], tuple[int, str]] = start_run,
) -> int:
    """Starts the runs that are not finished, one after the other; the results stand in `workdir`.

    Args:
        workdir: of the study.
        runs: all of them; those that need others stand behind them, and are left out without.
        publish: writes tables and plot of what is finished, given the reasons of the runs that
            failed; returns the table as text.
        start: does one of them.

    Returns:
        0; 1 when a run has failed; the exit status of the run that was interrupted by a signal.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    stopped: list[int] = []
    status = 0
    for number, run in enumerate(runs, start=1):
        if run.finished or not run.ready:
            continue
        log.info("run %d of %d: %s (%s)", number, len(runs), run.name, run.workdir)
        status, last = start(run, stopped)
        if stopped:
            log.info("interrupted: the same command continues")
            break
        if status:
            reasons[run.name] = f"exit status {status}: {last}"
            log.error("run %s failed, the others go on", run.name)
        publish(reasons)
    text = publish(reasons)
    files = "report.html", "table.md", "table.csv", "study.json", "plot.svg", "plot.png"
    log.info("%s\n%s", text, ", ".join(str(workdir / name) for name in files))
    return (status or 128 + stopped[0]) if stopped else int(bool(reasons))
