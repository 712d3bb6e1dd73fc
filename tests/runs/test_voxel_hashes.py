"""The record by which copies of a run's images are recognised."""

import pytest

from lagseg_jax.runs.voxel_hashes import VOXELS, read_voxel_hashes, write_voxel_hashes
from lagseg_jax.runtime.errors import InputError


def test_what_is_written_is_read_and_damage_is_named(tmp_path):
    assert read_voxel_hashes(tmp_path) == {}
    write_voxel_hashes(tmp_path, {"one": "a" * 64})
    assert read_voxel_hashes(tmp_path) == {"one": "a" * 64}
    for damage in ("{}", '{"sha256": ["a"]}', '{"sha256": {"one": 3}}'):
        (tmp_path / VOXELS).write_text(damage)
        with pytest.raises(InputError, match=VOXELS):
            read_voxel_hashes(tmp_path)
