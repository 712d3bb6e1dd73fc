"""Says where the seconds of a command go: `LAGSEG_TRACE=1` prints it, `=FILE.json` keeps it."""

import contextlib
import functools
import os
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path

from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_json

VARIABLE = "LAGSEG_TRACE"  # environment variable
BESIDE = " (beside)"  # of stages in other threads than the main one, which do not add up
# Of what JAX reports; compiling is reading from the cache, where the code is there.
_JAX = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "tracing",
    "/jax/core/compile/backend_compile_duration": "compilation",
}

_seconds: dict[str, float] = defaultdict(float)
_calls: dict[str, int] = defaultdict(int)
_thread = threading.local()
_running = threading.Lock()  # while a command runs


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Counts the time of this block for a stage, but for that of stages within the block."""
    start = time.monotonic()
    try:
        yield
    finally:
        _add(name, start, time.monotonic())


def _add(name: str, start: float, end: float) -> None:
    """Counts an interval of this thread; those within it have been counted before."""
    if threading.current_thread() is not threading.main_thread():
        name += BESIDE
    if not hasattr(_thread, "ended"):
        _thread.ended = deque(maxlen=1000)
    ended, within = _thread.ended, 0.0
    while ended and ended[-1][0] >= start:
        within += ended.pop()[1]
    ended.append((start, end - start))
    _seconds[name] += end - start - within
    _calls[name] += 1


def count_compilations() -> None:
    """Makes stages of what JAX traces and compiles from now on; loads jax."""
    if _running.locked():
        _listen()


@functools.cache  # once in a process
def _listen() -> None:
    import jax

    def listen(event: str, duration_secs: float, **_: object) -> None:
        if event in _JAX:
            now = time.monotonic()
            _add(_JAX[event], now - duration_secs, now)

    jax.monitoring.register_event_duration_secs_listener(listen)


@contextlib.contextmanager
def command() -> Iterator[None]:
    """Within this block a command runs: at its end the stages are told, if they are asked for.

    Raises:
        InputError: into a file in a folder that is not there.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted in ("", "0") or not _running.acquire(blocking=False):  # within another
        yield
        return
    if wanted != "1" and not Path(wanted).absolute().parent.is_dir():
        _running.release()
        raise InputError(f"{VARIABLE} is {wanted}, expected 1 or a file in a folder that is there")
    _seconds.clear()
    _calls.clear()
    with contextlib.suppress(OSError, AttributeError):  # only Linux tells the age of a process
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
        _add("import", time.monotonic() - age, time.monotonic())
    try:
        with stage("other"):
            yield
    finally:
        _running.release()
        _tell("" if wanted == "1" else wanted)


def _tell(file: str) -> None:
    """Writes the stages into the file, or prints them on standard error."""
    total = sum(n for name, n in _seconds.items() if not name.endswith(BESIDE))
    cpu = time.process_time()
    if file:
        rows = [
            {"stage": s, "seconds": round(_seconds[s], 4), "times": _calls[s]} for s in _seconds
        ]
        whole = {"seconds": round(total, 4), "cpu_seconds": round(cpu, 4)}
        try:
            write_json(Path(file), {"command": sys.argv, "stages": rows, **whole})
        except OSError as error:  # the status stays that of the command, whose work is done
            print(f"error: {file} cannot be written ({error.strerror})", file=sys.stderr)
        return
    for name, seconds in _seconds.items():
        print(f"{seconds:9.3f} s  {_calls[name]:6d} x  {name}", file=sys.stderr)
    print(f"{total:9.3f} s in all, {cpu:.3f} s of CPU", file=sys.stderr)
