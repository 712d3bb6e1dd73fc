"""Which of several processes of a run this one is, its share of the work, and their common end.

Training runs as one process per machine (or per GPU), joined by `jax.distributed`. Work on cases
is shared out, and what is written once is written by the first process. If one process fails, all
of them end, with its sentence: none waits for one that is gone.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from lagseg_jax.runtime.channel import Channel
from lagseg_jax.runtime.cluster import how_to_join
from lagseg_jax.runtime.console import exit_status, log, log_to_console, still
from lagseg_jax.runtime.errors import InputError

Item = TypeVar("Item")

START_SECONDS = 300  # for all processes to come
HEARTBEAT_SECONDS = 60  # a process that is silent for so long is gone (killed -9, machine lost)
LEAVE_SECONDS = 10  # between the failure of one process and the end of the last

_ending = threading.Lock()  # for good: of two threads that end the process, one does
_here = (0, 1)  # index of this process, and how many there are
_channel: Channel | None = None  # to the others


def process() -> tuple[int, int]:
    """The index of this process, and how many there are. Starts no device."""
    return _here


def share(items: Sequence[Item]) -> list[Item]:
    """This process' part of the items; every item is in the part of exactly one process."""
    index, count = process()
    return list(items[index::count])


def allgather(value: Any) -> list:
    """What every process gave (JSON-serialisable, NaN included), by process; waits for all."""
    return [value] if _channel is None else _channel.allgather(value)


def barrier() -> None:
    """Waits until all processes are here."""
    allgather(None)


def once(function: Callable, *arguments: Any) -> None:
    """Calls the function in the first process; the others wait until it has returned."""
    if process()[0] == 0:
        function(*arguments)
    barrier()


def preempted(step: int, asked: bool) -> bool:
    """Whether training stops after this step: all processes do, when one of them was asked to.

    Not JAX's `reached_preemption_sync_point`: it hears SIGTERM alone, by a handler that takes the
    place of Python's, so that no other part of a command would hear it.
    """
    return asked if _channel is None else _channel.preempted(step, asked)


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

    global _here, _channel
    _here, _channel = _start(options)
    log_to_console(_here[0])
    log.info("process 0 of %d", _here[1])
    left = threading.Event()
    watch = threading.Thread(target=_watch, args=(_channel, left), daemon=True)
    watch.start()
    try:
        yield
        barrier()
    except BaseException as error:
        left.set()
        _leave(_channel, error)
    left.set()
    watch.join()
    _channel.leave()
    jax.distributed.shutdown()  # waits for all processes
    _channel.close()
    _here, _channel = (0, 1), None


def _start(options: dict) -> tuple[tuple[int, int], Channel]:
    """Finds the other processes; returns the place of this one and the channel to the others."""
    import jax

    # JAX itself would end a process that waits too long without a sentence.
    timer = threading.Timer(START_SECONDS, _give_up)
    timer.start()
    try:
        with still("waiting for the other processes"):
            _start_jax(options)
            here = jax.process_index(), jax.process_count()
            return here, Channel(*here)
    except InputError as error:
        if jax.distributed.is_initialized():
            _give_up(str(error))  # at an ordinary end, JAX would wait for those that wait for us
        raise
    finally:
        timer.cancel()


def _start_jax(options: dict) -> None:
    import jax

    try:
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


def _give_up(sentence: str | None = None) -> NoReturn:
    sentence = sentence or (
        f"not all processes have come within {START_SECONDS} s, expected all of them to start and "
        "to reach the first one under --coordinator_address"
    )
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    os._exit(2)


def _watch(channel: Channel, left: threading.Event) -> None:
    """Ends this process soon after another one has failed, unless it ends by itself."""
    while not left.wait(0.5):
        # Most failures meet all processes, which then end in good order, with files closed.
        if channel.failures and not left.wait(LEAVE_SECONDS):
            _ending.acquire()
            _exit(channel, _follow(channel))


def _leave(channel: Channel, error: BaseException) -> None:
    """Tells the other processes why this one fails, and exits."""
    _ending.acquire()
    if channel.failures:  # of another process, and this one's follows from it
        _exit(channel, _follow(channel))

    def fail() -> None:
        raise error

    status = 1
    try:
        status = exit_status(fail)
    except BaseException:
        traceback.print_exception(error)
    channel.fail(status, " ".join(str(error).split()) or type(error).__name__)
    _exit(channel, status)


def _follow(channel: Channel) -> int:
    """Says why the process that failed first did; returns its exit status."""
    index, status, sentence = channel.failures[0]
    print(f"process {index} has stopped: {sentence}", file=sys.stderr)
    return status


def _exit(channel: Channel, status: int) -> None:
    """Exits; the first process when all others have left, or have had the time.

    JAX ends the others without a sentence when the first process is gone.
    """
    channel.leave()
    deadline = time.monotonic() + 1.5 * LEAVE_SECONDS
    index, count = process()
    with channel.changed:
        while index == 0 and len(channel.left) < count and time.monotonic() < deadline:
            channel.changed.wait(0.05)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: JAX would wait at exit for processes that are gone.
    os._exit(status)
