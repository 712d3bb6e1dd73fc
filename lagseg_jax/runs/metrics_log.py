"""The curves of a training: a row of `metrics.jsonl` and TensorBoard scalars for each step."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lagseg_jax.runtime.console import log
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_text, without_nan, write_atomically


class MetricsWriter:
    """Appends rows to `metrics.jsonl` and to TensorBoard event files in the same folder.

    Args:
        workdir: the run's folder.
        header: the first row of a new file (what was trained, with which encoder).
        step: the run continues from here; rows of later steps, written before an interruption,
            are dropped, so that every step stands there once.
    """

    def __init__(self, workdir: Path, header: dict, step: int):
        self._path = Path(workdir) / "metrics.jsonl"
        rows = [header]
        if self._path.exists() and step:
            rows = [row for row in read_rows(self._path) if row.get("step", 0) <= step] or rows
        self._start_file(rows)
        self._unwritten = b""
        self._full = False
        self._board = _Board(Path(workdir) / "tensorboard", step + 1)

    def _start_file(self, rows: list[dict]) -> None:
        write_atomically(self._path, "".join(_line(row) for row in rows))
        self._last = rows[-1]
        self._file = self._path.open("ab", buffering=0)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one row, or completes the last one if it is of this step.

        Not-a-number becomes null. A full disk is logged, and not an error.
        """
        with self._surviving_a_full_disk():
            if step == self._last.get("step"):
                before = self._file
                self._start_file([*read_rows(self._path)[:-1], self._last | values])
                before.close()
            else:
                self._last = {"step": step, **values}
                self._append(_line(self._last).encode())
            self._board.write(step, values)
            self._full = False

    def _append(self, line: bytes) -> None:
        self._unwritten += line
        while self._unwritten:  # a disk may take a part of it
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

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

    def _add(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._event(step=step, wall_time=time.time(), **content))

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._add(step, summary=self._scalar(name, value))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _line(row: dict) -> str:
    return json.dumps(without_nan(row)) + "\n"


def read_rows(path: Path) -> list[dict]:
    """The rows of a `metrics.jsonl`, without lines that are not whole.

    Raises:
        InputError: a row is nested too deep to be one.
    """
    rows = []
    for line in read_text(path).splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # the last line of a run that was killed while writing it
            continue
        except RecursionError:
            raise InputError(
                f"{path} cannot be read (nested too deep), expected what training writes"
            ) from None
    return [row for row in rows if isinstance(row, dict)]
