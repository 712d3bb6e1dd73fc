"""The planes of the slices that a run was trained on, which bind every prediction."""

import json
from collections.abc import Iterable
from pathlib import Path

from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_json

PLANES = "planes.json"


def write_planes(workdir: Path, planes: Iterable[str]) -> None:
    """Records the planes of the training slices."""
    write_json(workdir / PLANES, {"planes": sorted(set(planes))})


def read_planes(workdir: Path) -> tuple[str, ...]:
    """The planes of the training slices; none where no training has recorded them.

    Raises:
        InputError: the record is damaged.
    """
    path = Path(workdir) / PLANES
    if not path.exists():
        return ()
    try:
        return tuple(str(plane) for plane in json.loads(path.read_text("utf-8"))["planes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}), expected the planes of the training "
            "slices"
        ) from None
