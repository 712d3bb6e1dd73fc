"""The voxels of a run's images, by hash, so that a copy in another file is recognised."""

from collections.abc import Mapping
from pathlib import Path

from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json, write_json

VOXELS = "voxels.json"


def write_voxel_hashes(workdir: Path, hashes: Mapping[str, str]) -> None:
    """Records {case: hash of its image's voxels} of all parts of the split."""
    write_json(workdir / VOXELS, {"sha256": dict(hashes)})


def read_voxel_hashes(workdir: Path) -> dict[str, str]:
    """{case: hash of its image's voxels}; empty where no training has recorded them.

    Raises:
        InputError: the record is damaged.
    """
    path = Path(workdir) / VOXELS
    if not path.exists():
        return {}
    expected = "the hashes of the images that a run was trained on"
    hashes = read_json(path, expected).get("sha256")
    if not isinstance(hashes, dict) or not all(isinstance(one, str) for one in hashes.values()):
        raise InputError(f"{path} cannot be read (no hashes in sha256), expected {expected}")
    return hashes
