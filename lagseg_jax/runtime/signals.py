"""SIGTERM or Ctrl-C -> `Interrupted`, at once or at the end of a training step.

Only Python's own signal handlers are used. `jax.distributed` installs one for SIGTERM, too, so
`handled` is entered after it; Orbax then knows of no preemption, and saves nothing on its own.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from lagseg_jax.runtime.errors import Interrupted

_asked: list[str] = []  # the name of the signal that came, if one has
_deferred: list[bool] = []  # not empty within `deferred`


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Within this block, the first SIGTERM or Ctrl-C raises `Interrupted`.

    A second Ctrl-C ends the process at once; a SIGTERM after another signal changes nothing, as
    launchers send one along with Ctrl-C, or two. In another thread than the main one, the signals
    stay as they are.

    Raises:
        Interrupted: in the main thread, wherever it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()


def _handle(number: int, _) -> None:
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _asked:
        return
    _asked.append(signal.Signals(number).name)
    if not _deferred:
        raise Interrupted(f"stopped by {_asked[0]}; the same command continues")
    # Not through logging: the main thread may hold its locks, or be inside a write.
    text = f"\n{_asked[0]}: saving the current step; Ctrl-C (again) stops at once\n"
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
        raise Interrupted(f"stopped by {_asked[0]}; the same command continues")
