"""environment -> the folder for what can be made again."""

import hashlib
import os
from pathlib import Path


def cache_home() -> Path:
    """Where the project may keep what can be made again: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lagseg_jax"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file under a hidden temporary name, then renames it: complete or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: str | Path) -> str:
    """SHA-256 (hexadecimal) of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
