"""environment -> the folder for what can be made again."""

import os
from pathlib import Path


def cache_home() -> Path:
    """Where the project may keep what can be made again: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lagseg_jax"
