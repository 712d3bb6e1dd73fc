"""Where files go, and how they are written: complete or not at all."""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import math
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:40]
_numbers = itertools.count()
_tidied: set[Path] = set()  # folders in which this process has looked for leftovers


def cache_home() -> Path:
    """Where the project may keep what can be made again: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lagseg_jax"


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
    finally:
        temporary.unlink(missing_ok=True)


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


def file_sha256(path: str | Path) -> str:
    """SHA-256 (hexadecimal) of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
