"""Both ends of a process that stays warm: commands as lines of JSON, answers as lines of JSON.

The other end is `python -m benchmarks.common.worker MODULE`, where the module has a dict
`COMMANDS`; each of its functions takes and returns what JSON can hold.
"""

import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from lagseg_jax.runtime.host import tune

ROOT = Path(__file__).resolve().parents[2]
# One device, and two frameworks on it: neither may take all of its memory.
DEFAULTS = {"CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"}
ALWAYS = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # compile times are of real compilations


class WorkerError(Exception):
    """A command failed in the worker, or the worker died; the text says why, in one line."""


class Worker:
    """The coordinator's end: `worker.call("measure", row="encoder", calls=3)`.

    As a context, it ends the process. The process ends with its own children when the coordinator
    is gone, however that ended: a worker left behind would take the time of the next.

    Args:
        module: with the commands, such as "benchmarks.speed.torch_worker".
        python: the interpreter.
        log: its stderr goes to the end of this file.
        cores: it may use only these (Linux); None: all of ours.
        environment: variables that it gets beside ours.
    """

    def __init__(
        self,
        module: str,
        python: str,
        log: Path,
        cores: Sequence[int] | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ):
        self.log = log
        variables = DEFAULTS | os.environ | ALWAYS | environment
        with open(log, "ab") as stderr:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.common.worker", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                env=variables,
                text=True,
                process_group=0,  # to be ended with its children
            )
        if cores is not None:  # before it has threads of its own
            os.sched_setaffinity(self._process.pid, cores)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind:  # Ctrl-C perhaps, while it is at work
            self._kill()
        self.close()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # the end

    def call(self, command: str, timeout: float = 600, **arguments):
        """The answer to a command; a worker that does not answer in time (s) is killed.

        Raises:
            WorkerError: the command raised, or the worker is gone.
        """
        try:
            self._process.stdin.write(json.dumps({"command": command} | arguments) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=max(1.0, timeout))
        except queue.Empty:
            self._kill()
            raise WorkerError(f"{command}: no answer within {timeout:.0f} s") from None
        except (BrokenPipeError, OSError):
            line = ""
        if not line:
            words = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            status = self._process.wait()
            raise WorkerError(f"{command}: the worker ended with {status} {' '.join(words)[:200]}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{command}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def serve(module: str) -> None:
    """The worker's end: answers until stdin ends.

    What cannot be imported is the answer to every command.
    """
    threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    malloc = tune()
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            commands = importlib.import_module(module).COMMANDS | {"malloc": lambda: malloc}
            answer = {"result": commands[arguments.pop("command")](**arguments)}
        except Exception as error:
            traceback.print_exc()
            reason = " ".join(str(error).split())[:300]
            answer = {"error": f"{type(error).__name__}: {reason}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    serve(sys.argv[1])
