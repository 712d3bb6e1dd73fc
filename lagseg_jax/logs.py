"""metrics of a step -> metrics.jsonl, TensorBoard files and a progress bar with ETA."""

import json
import logging
import math
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from lagseg_jax.errors import InputError, TrainingError

log = logging.getLogger("lagseg_jax")


class _Console(logging.Handler):
    """Prints plain lines without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def log_to_console() -> None:
    """Sends what the package reports to standard error; called by the command lines only."""
    log.setLevel(logging.INFO)
    log.propagate = False
    if not log.handlers:
        log.addHandler(_Console())


def exit_status(main) -> int:
    """Runs a command line: what went wrong becomes one sentence on standard error.

    Returns the exit status: that of `main`, 2 for bad input, 1 for a training that cannot go on.
    """
    try:
        return main() or 0
    except (InputError, TrainingError) as error:
        sentence = " ".join(str(error).split())
        print(f"error: {sentence}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


class MetricsWriter:
    """Appends rows to `metrics.jsonl` and to TensorBoard event files in the same folder.

    Args:
        workdir: the run's folder.
        header: the first row of a new file (what was trained, with which encoder).
        step: the run continues from here; rows of later steps, written before an interruption,
            are dropped, so that every step stands there once.
    """

    def __init__(self, workdir: Path, header: dict, step: int):
        path = Path(workdir) / "metrics.jsonl"
        rows = [header]
        if path.exists() and step:
            rows = [row for row in _read_rows(path) if row.get("step", 0) <= step] or rows
        temporary = path.with_suffix(".jsonl.tmp")
        temporary.write_text("".join(_line(row) for row in rows))
        os.replace(temporary, path)
        self._file = path.open("a")
        self._board = _summary_writer()(str(Path(workdir) / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one row; not-a-number becomes null."""
        self._file.write(_line({"step": step, **values}))
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both files."""
        self._file.close()
        self._board.close()


def _summary_writer() -> type:
    """tensorboardX's writer, without the torch that it would load, for nothing."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # what Python documents for "cannot be imported"
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


def _line(row: dict) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    return json.dumps(finite) + "\n"


def _read_rows(path: Path) -> list[dict]:
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the last line of a run that was killed while writing it
            continue
    return rows


class Progress:
    """A progress bar with ETA on a terminal; elsewhere a plain line now and then.

    Args:
        what: the label.
        total: steps in all.
        done: steps done before.
        every_seconds: between plain lines.
    """

    def __init__(self, what: str, total: int, done: int = 0, every_seconds: float = 20.0):
        terminal = sys.stderr.isatty()
        self._what, self._every, self._terminal = what, every_seconds, terminal
        self._bar = tqdm(
            desc=what, total=total, initial=done, disable=not terminal, dynamic_ncols=True
        )
        self._total, self._done, self._first = total, done, done
        self._start = self._last = time.monotonic()

    def advance(self, note: dict[str, str] | None = None) -> None:
        """One more step; `note` goes beside the bar."""
        self._done += 1
        self._bar.update()
        if note:
            self._bar.set_postfix(note)
        now = time.monotonic()
        if not self._terminal and (now - self._last > self._every or self._done == self._total):
            self._last = now
            seconds = (now - self._start) / (self._done - self._first)
            left = tqdm.format_interval(seconds * (self._total - self._done))
            notes = "".join(f", {k} {v}" for k, v in (note or {}).items())
            log.info(
                "%s %d/%d, %.2f s each, ETA %s%s",
                *(self._what, self._done, self._total, seconds, left, notes),
            )

    def close(self) -> None:
        """Leaves the bar on the screen."""
        self._bar.close()
