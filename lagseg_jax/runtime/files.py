"""Where files go, how they are read, and how they are written: complete or not at all."""

import contextlib
import csv
import errno
import hashlib
import io
import itertools
import json
import math
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lagseg_jax.runtime.errors import InputError

_HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:40]
MOST_NESTED = 50  # levels of JSON; no file of ours has more than ten
LONGEST_STEM = 248  # bytes of a file name before `.nii.gz`, where file systems take 255
_numbers = itertools.count()
_tidied: set[Path] = set()  # folders in which this process has looked for leftovers


def cache_home() -> Path:
    """Where the project may keep what can be made again: $XDG_CACHE_HOME or ~/.cache.

    Raises:
        InputError: no home folder is known, as in a container whose user is not in its passwd.
    """
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lagseg_jax"


def user_path(text: str) -> Path:
    """The path in a field or variable, with `~` as the home folder; errors as in `cache_home`."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(
            f"{text} is in no known place, as HOME is not set and user {os.getuid()} is not in the "
            "system's passwd, expected HOME or XDG_CACHE_HOME to name a folder, or no `~`"
        ) from None


def check_writable(folder: Path, expected: str) -> None:
    """Makes sure that files can be written in a folder that is there or will be made.

    Args:
        folder: nothing in it changes.
        expected: the way out, for the message.

    Raises:
        InputError: they cannot.
    """
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    try:
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(
            f"{place} cannot be written to ({error.strerror}), expected {expected}"
        ) from None


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yields a hidden name beside `path`; the file written there becomes `path` after the block.

    If the block ends with an exception, nothing is left. What a killed process left in the same
    folder is removed.
    """
    _remove_leftovers(path.parent)
    # Short, so that it fits wherever the name itself does; libraries look at the suffix.
    suffix = "".join(path.suffixes[-2:])[-16:]
    temporary = path.with_name(f".partial-{_HOST}-{os.getpid()}-{next(_numbers)}{suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:  # its reader knows the name that the file was to get
        if str(error.filename or temporary) == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _remove_leftovers(folder: Path) -> None:
    """Removes what processes of this machine that are gone began to write here."""
    if folder in _tidied:
        return
    _tidied.add(folder)
    for path in folder.glob(f".partial-{_HOST}-*"):
        found = re.match(rf"\.partial-{_HOST}-(\d+)-", path.name)
        if found and not _is_alive(int(found[1])):
            with contextlib.suppress(OSError):  # somebody else's, or just gone
                path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file, complete or not at all."""
    with written_atomically(path) as temporary:
        temporary.write_bytes(
            content.encode(errors="backslashreplace") if isinstance(content, str) else content
        )


def write_json(path: Path, content: Any) -> None:
    """Writes JSON that any reader takes: what is not a number is null."""
    write_atomically(path, json.dumps(without_nan(content), indent=2, allow_nan=False) + "\n")


def without_nan(content: Any) -> Any:
    """The same nested content with None for every float that is NaN or infinite."""
    if isinstance(content, Mapping):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a table; what a row lacks stays empty.

    Spreadsheets take text that begins with = + - @ for a formula, so it gets an apostrophe.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _harmless(value) for key, value in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def _harmless(value: Any) -> Any:
    begins = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if begins else value


def short_name(name: str, most: int = LONGEST_STEM) -> str:
    """A name for files; of one that is too long the beginning, and a hash of the whole.

    Args:
        name: of a case, say, without suffix.
        most: bytes.
    """
    raw = os.fsencode(name)
    if len(raw) <= most:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:8]
    return f"{raw[: most - 9].decode('utf-8', 'ignore')}-{digest}"


def open_file(path: str | Path) -> io.BufferedReader:
    """Opens a file to be read; raises OSError for a pipe, too, whose reading would never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a file", str(path))
    return open(descriptor, "rb")


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, with any ends of lines."""
    with open_file(path) as file:
        return file.read().decode("utf-8-sig").replace("\r\n", "\n")


def read_json(path: str | Path, expected: str, kind: type = dict) -> Any:
    """The content of a JSON file, which anybody may have written.

    Args:
        path: of the file.
        expected: what the file ought to be, for the message.
        kind: type of the content; `object` for any.

    Raises:
        InputError: no such file, no JSON, nested too deep, or of another type.
    """
    try:
        with open_file(path) as file:
            content = json.loads(file.read())
        found = "" if isinstance(content, kind) else f"JSON {type(content).__name__} found"
        found = "nested too deep" if _is_deep(content) else found
    except OSError as error:
        found = error.strerror or str(error)
    except RecursionError:
        found = "nested too deep"
    except ValueError as error:  # not JSON, not UTF-8, or a number of thousands of digits
        found = " ".join(str(error).split())[:100]
    if found:
        raise InputError(f"{path} cannot be read ({found}), expected {expected}")
    return content


def _is_deep(content: Any) -> bool:
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(MOST_NESTED):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [value for one in inner for value in one if isinstance(value, dict | list)]
    return bool(level)


def file_sha256(path: str | Path) -> str:
    """SHA-256 (hexadecimal) of a file, read in pieces."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_sha256(path: Path, files: Sequence[Path] | None = None) -> str:
    """SHA-256 of a file; of a folder, of the names and contents of the files in and below it.

    Args:
        path: of the file or folder.
        files: only these of the folder.
    """
    if not path.is_dir():
        return file_sha256(path)
    files = files_below(path) if files is None else files
    found = [(str(file.relative_to(path)), file_sha256(file)) for file in files]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def files_below(path: Path) -> list[Path]:
    """The file itself; of a folder, the files in and below it."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
