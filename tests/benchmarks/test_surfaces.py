"""python -m benchmarks.surfaces: a row for each case, with numbers that a cube tells."""

import nibabel
import numpy as np
import pytest

from benchmarks import surfaces
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json

pytest.importorskip("fast_simplification")


def test_a_row_for_each_phantom_and_each_label(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(surfaces, "SAMPLES", 5003)
    monkeypatch.setattr(surfaces, "PHANTOMS", {"coarse": ((4.0, 4.0, 5.0), (37, 35, 23))})
    case = tmp_path / "data" / "train_1"
    case.mkdir(parents=True)
    cube = np.zeros((13, 11, 17), np.uint8)
    cube[3:9, 3:9, 3:9] = 1
    for name in ("enhanced", "atriumSegImgMO"):
        image = nibabel.Nifti1Image(cube, np.diag([2, 3, 4, 1]))
        nibabel.save(image, case / f"{name}.nii.gz")
    output = tmp_path / "surfaces.json"
    flags = ["--phantoms=2", "--triangles=300", f"--data={tmp_path / 'data'}"]
    assert surfaces.main([*flags, f"--output={output}"]) == 0
    rows = read_json(output, "measurements")["rows"]
    assert [row["case"] for row in rows] == ["0", "1", "train_1"]
    assert all(row["closed"] and row["triangles"] <= 300 for row in rows)
    cube_row = rows[2]
    assert cube_row["voxels"] == 6**3
    assert cube_row["mean"] < cube_row["95 %"] < cube_row["most"] < 1
    # A voxel is 2 to 4 mm here: distances in mm are larger by a factor between.
    assert 2 * cube_row["mean"] < cube_row["mean, mm"] < 4 * cube_row["mean"]
    assert "| phantoms, coarse, worst | 2 |" in capsys.readouterr().out


def test_no_labels_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="has no labels in any known layout"):
        surfaces.main(["--phantoms=0", f"--data={tmp_path}"])
