"""options, environment -> which of several processes this one is; their shares, and their end.

Training runs as one process per machine (or per GPU), joined by `jax.distributed`. Work on cases
is shared out, and what is written once is written by the first process. If one process fails, all
of them end, with its sentence: none waits for one that is gone.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lagseg_jax.runtime.cluster import how_to_join
from lagseg_jax.runtime.console import exit_status, log, log_to_console, still
from lagseg_jax.runtime.errors import InputError

Item = TypeVar("Item")

START_SECONDS = 300  # for all processes to come
HEARTBEAT_SECONDS = 60  # a process that is silent for so long is gone (killed -9, machine lost)
LEAVE_SECONDS = 10  # between the failure of one process and the end of the last

_meetings = itertools.count()
_ending = threading.Lock()  # for good: of two threads that end the process, one does


def process() -> tuple[int, int]:
    """The index of this process, and how many there are. Starts no device."""
    if "jax" not in sys.modules:
        return 0, 1
    from jax._src.distributed import global_state

    return global_state.process_id, global_state.num_processes


def share(items: Sequence[Item]) -> list[Item]:
    """This process' part of the items; every item is in the part of exactly one process."""
    index, count = process()
    return list(items[index::count])


def gather(value) -> list:
    """What every process gave (JSON-serialisable, NaN included), by process; waits for all."""
    index, count = process()
    if count == 1:
        return [value]
    folder = f"lagseg_jax/meeting/{next(_meetings)}/"
    client = _client()
    client.key_value_set(f"{folder}{index}", json.dumps(value))
    # Asked again and again, so that signals are answered meanwhile; there is no time limit, as
    # the first process may have hours of work. Who fails or vanishes ends all, see `joined`.
    while len(found := client.key_value_dir_get(folder)) < count:
        time.sleep(0.05)
    return [json.loads(text) for _, text in sorted(found, key=lambda f: int(f[0].split("/")[-1]))]


def once(function: Callable, *arguments) -> None:
    """Calls the function in the first process; the others wait until it has returned."""
    if process()[0] == 0:
        function(*arguments)
    gather(None)


@contextlib.contextmanager
def joined(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
    """Within this block, this process is one of several, if options or environment say so.

    To be entered before JAX has started its devices, which it does. If the block ends with an
    exception in one of several processes, all exit, with the status and the sentence of that one.

    Raises:
        InputError: options that do not fit each other, or processes that do not find each other.
    """
    options = how_to_join(coordinator_address, num_processes, process_id, os.environ)
    if options is None:
        yield
        return
    import jax

    _start(options)
    index, count = process()
    log_to_console(index)
    log.info("process 0 of %d", count)
    left = threading.Event()
    watch = threading.Thread(target=_watch, args=(left,), daemon=True)
    watch.start()
    try:
        yield
        gather(None)
    except BaseException as error:
        left.set()
        _leave(error)
    left.set()
    watch.join()
    jax.distributed.shutdown()


def _start(options: dict) -> None:
    """Finds the other processes and their devices."""
    import jax

    # JAX itself would end a process that waits too long without a sentence.
    timer = threading.Timer(START_SECONDS, _give_up)
    timer.start()
    try:
        with still("waiting for the other processes"):
            jax.distributed.initialize(
                **options,
                initialization_timeout=START_SECONDS + 60,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
            jax.devices()  # waits for those of the others, which may need theirs much later
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"jax.distributed cannot be started ({error}), expected --coordinator_address, "
            "--num_processes and --process_id where JAX does not detect them"
        ) from None
    finally:
        timer.cancel()


def _give_up() -> None:
    sentence = (
        f"error: not all processes have come within {START_SECONDS} s, expected all of them to "
        "start and to reach the first one under --coordinator_address"
    )
    print(sentence, file=sys.stderr, flush=True)
    os._exit(2)


def _client():
    from jax._src.distributed import global_state  # JAX has no public name for it; nor has Orbax

    return global_state.client


def _watch(left: threading.Event) -> None:
    """Ends this process soon after another one has failed, unless it ends by itself."""
    with contextlib.suppress(RuntimeError):  # JAX ends it when the first process is gone
        while not left.wait(0.5):
            # Most failures meet all processes, which then end in good order, with files closed.
            if _failures() and not left.wait(LEAVE_SECONDS):
                _ending.acquire()
                _exit(_follow())


def _leave(error: BaseException) -> None:
    """Tells the other processes why this one fails, and exits."""
    _ending.acquire()
    status = 1
    with contextlib.suppress(RuntimeError):  # the first process, which keeps them, may be gone
        if _failures():  # of another process, and this one's follows from it
            _exit(_follow())

    def fail() -> None:
        raise error

    try:
        status = exit_status(fail)
    except BaseException:
        traceback.print_exception(error)
    index, _ = process()
    sentence = " ".join(str(error).split()) or type(error).__name__
    with contextlib.suppress(RuntimeError):
        _client().key_value_set(f"lagseg_jax/failed/{index}", json.dumps([index, status, sentence]))
    _exit(status)


def _failures() -> list[tuple[str, str]]:
    return _client().key_value_dir_get("lagseg_jax/failed/")


def _follow() -> int:
    """Says why the process that failed first did; returns its exit status."""
    index, status, sentence = json.loads(_failures()[0][1])
    print(f"process {index} has stopped: {sentence}", file=sys.stderr)
    return status


def _exit(status: int) -> None:
    """Exits when all processes are here, or have had the time."""
    index, count = process()
    client, deadline = _client(), time.monotonic() + 1.5 * LEAVE_SECONDS
    with contextlib.suppress(RuntimeError):
        client.key_value_set(f"lagseg_jax/left/{index}", "")
        while len(client.key_value_dir_get("lagseg_jax/left/")) < count:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if index == 0:
            time.sleep(1)  # the others need this process to see that they are all here
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: JAX would wait at exit for processes that are gone.
    os._exit(status)
