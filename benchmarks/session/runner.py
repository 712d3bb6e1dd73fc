"""Runs the commands of a measuring session, each until the time of its part is over."""

import argparse
import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.common.worker import ROOT
from lagseg_jax.runtime.console import printable


class PartError(Exception):
    """A command failed or took too long; the text says why."""


@dataclasses.dataclass
class Session:
    """What a session has, and has found.

    Attributes:
        options: of the command line.
        folder: of all files.
        data: dataset folder.
        rows: of the table: part, what, value, unit.
        part: that runs.
        end: of this part, by the monotonic clock.
    """

    options: argparse.Namespace
    folder: Path
    data: Path
    rows: list[dict] = dataclasses.field(default_factory=list)
    part: str = ""
    end: float = 0.0

    def left(self) -> float:
        """Seconds of the part that runs; may be negative."""
        return self.end - time.monotonic()

    def add(self, what: str, value: float, unit: str) -> None:
        """Adds a row."""
        self.rows.append({"part": self.part, "what": what, "value": round(value, 4), "unit": unit})

    def run(self, name: str, *arguments: str, watch: Path | None = None, trace: str = "") -> dict:
        """Runs `python -m ...` until the part's time is over; its output goes to NAME.log.

        Args:
            name: of the command.
            *arguments: of `python -m`.
            watch: metrics.jsonl of a training.
            trace: file for its stages (`lagseg_jax.runtime.trace`).

        Returns:
            "seconds", and with `watch` "first_step", seconds until the first step was written.

        Raises:
            PartError: see above; the process and its children have been ended.
        """
        log, found = self.folder / f"{name}.log", {}
        start = time.monotonic()
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [self.options.python, "-m", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=self._environment() | {"LAGSEG_TRACE": trace},
                start_new_session=True,
            )
            try:
                while process.poll() is None and self.left() > 0:
                    if watch and "first_step" not in found and len(whole_lines(watch)) > 1:
                        found["first_step"] = time.monotonic() - start
                    time.sleep(0.02)
            finally:
                late = process.poll() is None
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
        seconds = time.monotonic() - start
        if status:
            said = " ".join(whole_lines(log)[-1:])
            why = "its time is over" if late else f"exit status {status}"
            raise PartError(printable(f"{name}: {why} after {seconds:.0f} s: {said[:200]}"))
        return found | {"seconds": seconds}

    def _environment(self) -> dict[str, str]:
        """Ours, with a cache of compilations that is empty at first: first starts are some."""
        given = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        return given | {"XDG_CACHE_HOME": str(self.folder / "cache")}


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that may be written just now, or not be there."""
    try:
        return path.read_text(errors="replace").split("\n")[:-1]
    except OSError:
        return []
