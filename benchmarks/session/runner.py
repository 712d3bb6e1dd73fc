"""Runs the commands of a measuring session, each until the time of its part is over."""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.common.worker import ROOT
from lagseg_jax.runtime.console import printable
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_json

ASKED = """
import jax, json
device = jax.devices()[0]
about = {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__}
print(json.dumps(about))
"""


class PartError(Exception):
    """A command failed or took too long; the text says why."""


class LeftOut(Exception):
    """There is nothing to measure a part with; the text says what is missing."""


@dataclasses.dataclass
class Session:
    """What a session has, and has found.

    Attributes:
        options: of the command line.
        folder: of all files.
        data: dataset folder.
        result: what is kept of it all in `session.json`: "rows" of the table (part, what, value,
            unit), "problems" and more.
        part: that runs.
        end: of this part, by the monotonic clock.
    """

    options: argparse.Namespace
    folder: Path
    data: Path
    result: dict = dataclasses.field(default_factory=lambda: {"rows": [], "problems": []})
    part: str = ""
    end: float = 0.0

    def left(self) -> float:
        """Seconds of the part that runs; may be negative."""
        return self.end - time.monotonic()

    def add(self, what: str, value: float, unit: str) -> None:
        """Adds a row, and writes all of them: whenever the session ends, they are there."""
        row = {"part": self.part, "what": what, "value": round(value, 4), "unit": unit}
        self.result["rows"].append(row)
        write_json(self.folder / "session.json", self.result)

    def ask_jax(self) -> dict[str, str]:
        """The device that JAX computes on, its platform, and the version of JAX.

        Raises:
            InputError: it does not start.
        """
        asked = subprocess.run(
            [self.options.python, "-c", ASKED],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self._environment("asked"),
        )
        if asked.returncode:
            said = printable(" ".join(asked.stderr.splitlines()[-1:])[:200])
            raise InputError(f"{self.options.python} cannot start JAX: {said}")
        return json.loads(asked.stdout.splitlines()[-1])

    def run(
        self,
        name: str,
        *arguments: str,
        watch: Path | None = None,
        trace: str = "",
        cache: str = "",
    ) -> float:
        """Runs `python -m ...` until the part's time is over; its output goes to NAME.log.

        Args:
            name: of the command.
            *arguments: of `python -m`.
            watch: metrics.jsonl of a training; the seconds until it has a row are added.
            trace: file for its stages (`lagseg_jax.runtime.trace`).
            cache: the part whose compiled code it finds; by default its own, at first none.

        Returns:
            Its seconds.

        Raises:
            PartError: see above; the process and its children have been ended.
        """
        log, start = self.folder / f"{name}.log", time.monotonic()
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [self.options.python, "-m", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=self._environment(cache or self.part) | {"LAGSEG_TRACE": trace},
                start_new_session=True,
            )
            try:
                while process.poll() is None and self.left() > 0:
                    if watch and len(lines := whole_lines(watch)) > 1:
                        first, watch = json.loads(lines[1])["step"], None
                        self.add(f"start and {first} steps", time.monotonic() - start, "s")
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
        return seconds

    def _environment(self, cache: str) -> dict[str, str]:
        """Ours, with a cache of compilations that is empty at first: first starts are some."""
        given = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        return given | {"XDG_CACHE_HOME": str(self.folder / "cache" / cache)}


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that may be written just now, or not be there."""
    try:
        return path.read_text(errors="replace").split("\n")[:-1]
    except OSError:
        return []
