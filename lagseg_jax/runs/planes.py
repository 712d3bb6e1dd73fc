"""The planes of the slices that a run was trained on, which bind every prediction."""

from collections.abc import Iterable
from pathlib import Path

from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json, write_json

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
    expected = "the planes of the training slices"
    planes = read_json(path, expected).get("planes")
    if not isinstance(planes, list) or not all(isinstance(plane, str) for plane in planes):
        raise InputError(f"{path} cannot be read (no list planes), expected {expected}")
    return tuple(planes)
