"""metrics of a step -> metrics.jsonl, TensorBoard files and a progress bar with ETA."""

import contextlib
import errno
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from lagseg_jax.errors import InputError, Interrupted, TrainingError

log = logging.getLogger("lagseg_jax")

SILENT_SECONDS = 60.0  # nothing is silent for longer
EXIT_STATUS = {InputError: 2, TrainingError: 1, Interrupted: 75}


class _Console(logging.Handler):
    """Prints plain lines without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # In one piece: several processes may write to the same terminal or file.
            tqdm.write(f"{self.format(record)}\n", file=sys.stderr, end="")
        except OSError:  # standard error may go to a disk that is full
            self.handleError(record)


def log_to_console(process: int = 0) -> None:
    """Sends what the package reports to standard error; called by the command lines only.

    Of several processes, those after the first report warnings and errors only, with their number.
    """
    log.setLevel(logging.WARNING if process else logging.INFO)
    log.propagate = False
    if not log.handlers:
        log.addHandler(_Console())
    prefix = f"[process {process}] " if process else ""
    log.handlers[0].setFormatter(logging.Formatter(f"{prefix}%(message)s"))
    # Orbax warns about options that it sets itself; what goes wrong reaches us as exceptions.
    logging.getLogger("absl").setLevel(logging.ERROR)


def exit_status(main) -> int:
    """Runs a command line: what went wrong becomes one sentence on standard error.

    Returns the exit status: that of `main`, 2 for bad input, 1 for a training that cannot go on or
    a full disk, 75 after SIGTERM or Ctrl-C, when the same command continues.
    """
    try:
        status = main() or 0
        sys.stdout.flush()
        return status
    except tuple(EXIT_STATUS) as error:
        sentence = " ".join(str(error).split())
        prefix = "" if isinstance(error, Interrupted) else "error: "
        print(f"{prefix}{sentence}", file=sys.stderr)
        return next(status for kind, status in EXIT_STATUS.items() if isinstance(error, kind))
    except BrokenPipeError:  # what reads our output (`| head`) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def still(what: str) -> Iterator[None]:
    """Says `still ... after 60 s` for as long as the block lasts longer than that."""
    start, done = time.monotonic(), threading.Event()

    def remind() -> None:
        while not done.wait(SILENT_SECONDS):
            log.warning("still %s after %.0f s", what, time.monotonic() - start)

    thread = threading.Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


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
            rows = [row for row in read_rows(path) if row.get("step", 0) <= step] or rows
        temporary = path.with_suffix(".jsonl.tmp")
        temporary.write_text("".join(_line(row) for row in rows))
        os.replace(temporary, path)
        self._file = path.open("ab", buffering=0)
        self._unwritten = b""
        self._full = False
        self._board = _Board(Path(workdir) / "tensorboard", step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one row; not-a-number becomes null. A full disk is logged, and not an error."""
        self._unwritten += _line({"step": step, **values}).encode()
        with self._surviving_a_full_disk():
            while self._unwritten:  # a disk may take a part of it
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
            self._board.write(step, values)
            self._full = False

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        with self._surviving_a_full_disk():
            self._board.close()

    @contextlib.contextmanager
    def _surviving_a_full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._full:
                log.error("ERROR: metrics cannot be written (%s); the training goes on", error)
            self._full = True


class _Board:
    """TensorBoard event files, written at once.

    tensorboardX's SummaryWriter would do it in a thread that dies of a full disk, after which the
    training waits for it forever.

    Args:
        folder: gets one event file per start of the run.
        purge_step: TensorBoard forgets what earlier files say about this step and later ones.
    """

    def __init__(self, folder: Path, purge_step: int):
        hidden = "torch" not in sys.modules
        if hidden:  # tensorboardX would load it, for nothing
            # What Python documents for "cannot be imported", though not in the type.
            sys.modules["torch"] = None  # type: ignore[assignment]
        try:
            from tensorboardX import event_file_writer, proto, summary
        finally:
            if hidden:
                del sys.modules["torch"]
        self._event, self._scalar = proto.event_pb2.Event, summary.scalar
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = event_file_writer.EventsWriter(str(folder / "events"))
        start = proto.event_pb2.SessionLog(status=proto.event_pb2.SessionLog.START)
        self._add(purge_step, session_log=start)

    def _add(self, step: int, **content) -> None:
        self._writer.write_event(self._event(step=step, wall_time=time.time(), **content))

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._add(step, summary=self._scalar(name, value))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _line(row: dict) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    return json.dumps(finite) + "\n"


def read_rows(path: Path) -> list[dict]:
    """The rows of a `metrics.jsonl`, without lines that are not whole."""
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
        terminal = sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
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
