"""Turns SIGTERM, SIGHUP and Ctrl-C into `Interrupted`, at once or at the end of a training step.

Only Python's own signal handlers are used. `jax.distributed` installs one for SIGTERM, too, so
`handled` is entered after it; Orbax then knows of no preemption, and saves nothing on its own.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from lagseg_jax.runtime.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
PARENT = "LAGSEG_PARENT"  # environment variable: process whose end ends this one
SECONDS_TO_SAVE = 60

_asked: list[str] = []  # the name of the signal that came, if one has
_deferred: list[bool] = []  # not empty within `deferred`
_continues: list[bool] = []  # of each `handled` that is entered


@contextlib.contextmanager
def handled(continues: bool) -> Iterator[None]:
    """Within this block, the first SIGTERM, SIGHUP or Ctrl-C raises `Interrupted`.

    A second Ctrl-C ends the process at once; a SIGTERM after another signal changes nothing, as
    launchers send one along with Ctrl-C, or two. In another thread than the main one, the signals
    stay as they are.

    Args:
        continues: whether the same command continues what it was at.

    Raises:
        Interrupted: in the main thread, wherever it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    _continues.append(continues)
    try:
        yield
    finally:
        _continues.pop()
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()


def _handle(number: int, _: object) -> None:
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _asked:
        return
    _asked.append(signal.Signals(number).name)
    if not _deferred:
        status = 75 if _continues[-1] else 128 + number
        raise Interrupted(f"stopped by {_asked[0]}", status)
    # Not through logging: the main thread may hold its locks, or be inside a write.
    text = f"\n{_asked[0]}: saving the current step; Ctrl-C (again) stops at once\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Within this block, a signal is only noted; yields a function that says whether one came.

    Raises:
        Interrupted: at the end of the block, when a signal came that the block did not act on.
    """
    _deferred.append(True)
    try:
        yield lambda: bool(_asked)
    finally:
        _deferred.pop()
    if _asked:
        raise Interrupted(f"stopped by {_asked[0]}")


def end_with_parent(variable: str = PARENT) -> None:
    """Lets this process end soon after the one that started it, however that one ends.

    The process that starts this one puts its number into the environment variable. A signal would
    reach this process only if the other one lived to send it, which a killed one does not.
    """
    parent = int(os.environ.pop(variable, 0))
    if parent:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_SAVE)
    os.kill(os.getpid(), signal.SIGKILL)
