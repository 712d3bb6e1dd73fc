"""The record of the run whose parameters another run began with."""

from pathlib import Path
from typing import Any

from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json, write_json

INIT_SOURCE = "init_from.json"
FIELDS = ("path", "checkpoint_step", "sha256", "config_sha256")  # what results repeat


def write_source(workdir: Path, source: dict[str, Any], seen: dict[str, str]) -> None:
    """Writes WORKDIR/init_from.json.

    Args:
        workdir: of the run that begins.
        source: `FIELDS`: the folder of the other run, the step of its checkpoint, SHA-256 of the
            parameters in it and of its config.json.
        seen: {hash of an image's file or of its voxels: case} of all that the other run has learnt
            from, which stays known when that run is gone.
    """
    write_json(workdir / INIT_SOURCE, {**source, "seen": seen})


def read_source(workdir: Path) -> dict[str, Any] | None:
    """What `write_source` wrote, with `seen` in it; None where a run began with random parameters.

    Raises:
        InputError: the record is damaged.
    """
    path = Path(workdir) / INIT_SOURCE
    if not path.exists():
        return None
    expected = "the record of the run that this one began with"
    content = read_json(path, expected)
    if not isinstance(content.get("seen"), dict) or not all(name in content for name in FIELDS):
        raise InputError(
            f"{path} lacks some of {', '.join((*FIELDS, 'seen'))}, expected {expected}"
        )
    return content
