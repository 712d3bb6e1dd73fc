"""What a prediction must know about the slices of the training."""

import pytest

from lagseg_jax.runs.planes import read_planes, write_planes
from lagseg_jax.runtime.errors import InputError


def test_planes_of_the_training_slices(tmp_path):
    assert read_planes(tmp_path) == ()
    write_planes(tmp_path, ["coronal", "axial", "axial"])
    assert read_planes(tmp_path) == ("axial", "coronal")
    (tmp_path / "planes.json").write_text("{}")
    with pytest.raises(InputError, match=r"planes\.json cannot be read"):
        read_planes(tmp_path)
