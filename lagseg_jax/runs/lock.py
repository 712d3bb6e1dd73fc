"""The lock that keeps a second process from writing into a folder in which one is at work.

It is an advisory lock of the operating system on a small file that stays: the kernel gives it back
when the process ends, however it ends, so a file that a killed process has left locks nothing.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json
from lagseg_jax.runtime.processes import process

log = logging.getLogger(__name__)

NAME = ".lock"
HELD = (errno.EWOULDBLOCK, errno.EACCES)  # by another process


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps every other process out of this block for it.

    The first process of a run takes the lock for all of them. Those that only read need none.

    A block that is refused leaves neither the lock nor empty folders that were not there.

    Args:
        folder: gets the file `.lock`, which names the process that holds or has held the lock.

    Raises:
        InputError: another process holds the lock; the sentence names its host, number and start.
    """
    if process()[0] > 0:
        yield
        return
    path = folder / NAME
    new = [place for place in (path, folder, *folder.parents) if not os.path.lexists(place)]
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        _take(descriptor, path)
        try:
            yield
        except InputError:
            _remove(new)
            raise
    finally:
        os.close(descriptor)  # gives the lock back


def _remove(new: list[Path]) -> None:
    """Removes the lock, and the folders made for it that are empty."""
    with contextlib.suppress(OSError):  # not empty
        for place in new:
            place.rmdir() if place.is_dir() else place.unlink()


def _take(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise InputError(
                f"{path.parent} is in use by {_holder(path)}, expected one process at a time: wait "
                "for it, stop it, or name another folder"
            ) from None
        log.warning(
            "the file system of %s has no locks (%s): make sure that nothing else writes there",
            *(path.parent, error.strerror),
        )
        return
    if os.fstat(descriptor).st_nlink == 0:  # a command that was refused has just removed it
        raise InputError(
            f"{path.parent} was in use until now, expected one process at a time: try again"
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"host": socket.gethostname(), "pid": os.getpid(), "since": now}
    about["command"] = " ".join(sys.orig_argv)[:500]
    # Written in place: a new file under the same name would not be the one that is locked.
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, (json.dumps(about) + "\n").encode(), 0)


def _holder(path: Path) -> str:
    """Who wrote the file, in words; another process may just be writing it."""
    try:
        about = read_json(path, "who holds the lock")
        return f"process {about['pid']} on {about['host']} since {about['since']}"
    except (ValueError, KeyError):
        return "another process"
