"""Keeps folders on disk that can be made again: whole or not there, the oldest go first.

A cache is a folder of entries; an entry is a folder named by its key, the hash of everything that
decides its content. Entries are written under a temporary name and renamed, so a killed process
leaves nothing that looks finished. What else lies in the folder is left alone.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lagseg_jax.runtime.errors import InputError

TEMPORARY = "lagseg_jax-writing-"
STALE_SECONDS = 24 * 3600  # a temporary folder this old belongs to a process that was killed


def key_of(content: list) -> str:
    """The name of an entry: 32 hexadecimal digits for JSON-serialisable content."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


@contextlib.contextmanager
def writing(entry: Path) -> Iterator[Path]:
    """Yields a temporary folder to be filled, which becomes the entry at the end of the block.

    Raises:
        OSError: no space or permission; it names the cache's folder.
    """
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=entry.parent))
    try:
        yield temporary
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            code = error.errno or errno.ENOSPC  # NumPy has none where it could write only a part
            raise OSError(code, os.strerror(code), str(entry.parent)) from error
        raise
    try:
        temporary.rename(entry)
    except OSError:  # another process was faster with the same content
        shutil.rmtree(temporary)


def mark_used(entry: Path) -> None:
    """Notes the time of last use, for `evict`."""
    os.utime(entry)


def open_array(path: Path) -> np.ndarray:
    """An array of an entry as a memory map.

    Raises:
        InputError: the file is gone or not whole.
    """
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({' '.join(str(error).split())}), expected a whole array: "
            "something changed the cache; delete its folder, and the same command continues"
        ) from None


def read_row(array: np.ndarray, index: int) -> np.ndarray:
    """A copy of `array[index]`, read from the file if the array is one of `open_array`.

    A file cut short while its memory map is read would end the process with a signal (SIGBUS) that
    names no file, so the map is read only where the file has been removed: then nobody else has it.

    Raises:
        InputError: the file was cut short.
    """
    if not (isinstance(array, np.memmap) and array.filename):
        return np.array(array[index])
    size = math.prod(array.shape[1:]) * array.itemsize
    start = array.offset + index * size
    try:
        row = np.fromfile(array.filename, np.uint8, size, offset=start)
    except FileNotFoundError:
        return np.array(array[index])
    if len(row) < size:
        found, expected = os.stat(array.filename).st_size, array.offset + array.nbytes
        raise InputError(
            f"{array.filename} has {found} bytes, expected {expected}: something changed "
            "the cache; delete its folder, and the same command continues"
        )
    return row.view(array.dtype).reshape(array.shape[1:])


def evict(
    folder: Path, in_use: set[str], max_gb: float, what: str, field: str, coming_bytes: int = 0
) -> None:
    """Removes the entries used longest ago until the cache is within its bound.

    Args:
        folder: of the cache.
        in_use: names of entries that stay.
        max_gb: the bound.
        what: the content, for the message.
        field: of the config that is the bound, for the message.
        coming_bytes: size of what will be written next, for which room is made.

    Raises:
        InputError: the entries in use and what is coming are larger than the bound.
    """
    now = time.time()
    sizes, entries = {}, []
    for entry in folder.iterdir():
        try:
            used = entry.stat().st_mtime
            if entry.name.startswith(TEMPORARY):
                if now - used > STALE_SECONDS:
                    shutil.rmtree(entry, ignore_errors=True)
                continue
            if not re.fullmatch("[0-9a-f]{32}", entry.name):
                continue  # not ours
            sizes[entry.name] = sum(f.stat().st_size for f in entry.iterdir())
            entries.append((used, entry))
        except FileNotFoundError:  # another process evicts at the same time
            continue
    needed = coming_bytes + sum(sizes.get(key, 0) for key in in_use)
    if needed > max_gb * 1e9:
        raise InputError(
            f"{folder} must hold {needed / 1e9:.2f} GB of {what}, but {field} is {max_gb:g}"
        )
    total = coming_bytes + sum(sizes.values())
    for _, entry in sorted(entries):
        if total > max_gb * 1e9 and entry.name not in in_use:
            _remove(entry)
            total -= sizes[entry.name]


def _remove(entry: Path) -> None:
    # Renamed first: a kill halfway must not leave an entry that looks finished.
    doomed = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=entry.parent))
    with contextlib.suppress(FileNotFoundError):  # another process evicts at the same time
        entry.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
