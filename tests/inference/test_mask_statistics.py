"""Numbers of a mask whose answers are known by hand, and the tables they go into."""

import csv
import json

import numpy as np
import pytest

from lagseg_jax.inference.mask_statistics import (
    UNITS,
    mask_statistics,
    statistics_line,
    write_statistics,
)

# Turned by 90 degrees: x runs along S, y along R and z along A; 2 x 3 x 5 mm.
AFFINE = np.array([[0, 3, 0, 10], [0, 0, 5, 20], [2, 0, 0, 30], [0, 0, 0, 1.0]])


@pytest.fixture
def mask():
    mask = np.zeros((23, 19, 17), np.uint8)
    mask[2:7, 3:6, 4:6] = 1
    mask[12, 4, 5] = 1
    return mask


def test_known_answers(mask):
    row = mask_statistics(mask, AFFINE)
    assert list(row) == list(UNITS)
    assert row["voxels"] == 31 and row["volume_ml"] == pytest.approx(31 * 30 / 1000)
    assert row["box_first"] == [2, 3, 4] and row["box_last"] == [12, 5, 5]
    assert row["box_mm"] == pytest.approx([22, 9, 10])
    x, y, z = (30 * 4 + 12) / 31, (30 * 4 + 4) / 31, (30 * 4.5 + 5) / 31
    assert row["centroid_ras_mm"] == pytest.approx([10 + 3 * y, 20 + 5 * z, 30 + 2 * x])
    assert row["components"] == 2
    assert row["touches_border"] is False and row["suspicious_volume"] is True


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("side", [0, -1])
def test_touching_a_border(mask, axis, side):
    np.moveaxis(mask, axis, 0)[side, 7, 7] = 1
    row = mask_statistics(mask, AFFINE)
    assert row["touches_border"] is True and "border" in statistics_line(row)
    assert "the mask reaches the border" in row["remarks"]


def test_empty_mask():
    row = mask_statistics(np.zeros((5, 6, 7), bool), AFFINE)
    assert row["voxels"] == row["volume_ml"] == row["components"] == 0
    assert row["box_first"] is row["centroid_ras_mm"] is None and not row["touches_border"]
    assert "nothing was found" in statistics_line(row)


def test_suspicious_volumes():
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[5:35, 5:35, 5:35] = 1  # 27 mL at 1 mm
    for spacing, suspicious in ((1.0, False), (0.8, True), (2.2, False), (2.3, True)):
        row = mask_statistics(mask, np.diag([spacing] * 3 + [1]))
        assert row["suspicious_volume"] is suspicious, spacing
        assert ("suspicious" in statistics_line(row)) is suspicious


def test_both_tables_hold_every_number(mask, tmp_path):
    rows = [
        {"case": "a, b", **mask_statistics(mask, AFFINE)},
        {"case": "c", **mask_statistics(np.zeros_like(mask), AFFINE)},
    ]
    write_statistics(tmp_path, rows, {"encoder_weights": "weights/base", "workdirs": ["runs/a"]})
    content = json.loads((tmp_path / "statistics.json").read_text())
    assert content["cases"] == rows and content["workdirs"] == ["runs/a"]
    assert set(content["units"]) == set(rows[0]) - {"case"}
    with (tmp_path / "statistics.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first["case"] == "a, b" and first["encoder_weights"] == "weights/base"
    assert float(first["centroid_ras_mm_z"]) == rows[0]["centroid_ras_mm"][2]
    assert (first["box_last_x"], first["components"]) == ("12", "2")
    assert second["voxels"] == "0" and second["centroid_ras_mm_z"] == second["box_first_x"] == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["statistics.csv", "statistics.json"]
