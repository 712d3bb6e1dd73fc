"""Metrics against hand-made answers and a brute force that shares no code with them."""

import itertools
import json
import math

import numpy as np
import pytest

from lagseg_jax.evaluation import metrics

SPACING = (0.7, 1.3, 2.9)


def blob(rng, shape, density):
    """A random mask with some structure: random voxels, each grown to a random box."""
    mask = np.zeros(shape, bool)
    for corner in rng.integers(0, shape, size=(density, 3)):
        mask[tuple(slice(c, c + s) for c, s in zip(corner, rng.integers(1, 4, size=3)))] = True
    return mask


def surface_points(mask, spacing):
    """Positions in mm of the surface voxels, by asking every voxel for its 6 neighbours."""
    inside = {tuple(index) for index in np.argwhere(mask)}
    steps = [step for step in itertools.product((-1, 0, 1), repeat=3) if sum(map(abs, step)) == 1]
    on_surface = [
        voxel
        for voxel in sorted(inside)
        if any(tuple(v + s for v, s in zip(voxel, step)) not in inside for step in steps)
    ]
    return np.array(on_surface) * spacing


def brute_force(truth, prediction, spacing):
    a, b = surface_points(truth, spacing), surface_points(prediction, spacing)
    pairs = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return pairs.min(1), pairs.min(0)


def test_500_random_masks_against_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(500):
        shape, spacing = rng.choice([3, 5, 7, 11], size=3), rng.uniform(0.4, 4, size=3)
        truth, prediction = (blob(rng, shape, rng.integers(1, 7)) for _ in range(2))
        there, back = brute_force(truth, prediction, spacing)
        row = metrics.case_metrics(truth, prediction, tuple(spacing))
        intersection = len(set(np.flatnonzero(truth)) & set(np.flatnonzero(prediction)))
        total = truth.sum() + prediction.sum()
        assert row["dice"] == 2 * intersection / total
        assert row["iou"] == intersection / (total - intersection)
        assert row["hd95_mm"] == pytest.approx(
            max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-9
        )
        both = np.concatenate([there, back])
        assert row["assd_mm"] == pytest.approx(both.mean(), abs=1e-9)
        found = metrics.surface_distances(truth, prediction, spacing)
        np.testing.assert_allclose(found[0], there, atol=1e-9)
        np.testing.assert_allclose(found[1], back, atol=1e-9)


@pytest.mark.parametrize(("axis", "distance"), [(0, 1.4), (1, 2.6), (2, 5.8)])
def test_two_voxels_two_steps_apart(axis, distance):
    truth, prediction = np.zeros((2, 5, 5, 5), np.uint8)
    truth[2, 2, 2] = 1
    prediction[tuple(4 if i == axis else 2 for i in range(3))] = 1
    row = metrics.case_metrics(truth, prediction, SPACING)
    assert row["hd95_mm"] == row["assd_mm"] == pytest.approx(distance)
    assert row["dice"] == row["iou"] == row["slice_dice"] == row["slice_iou"] == 0
    assert row["truth_ml"] == row["prediction_ml"] == pytest.approx(0.7 * 1.3 * 2.9 / 1000)


def test_box_one_voxel_longer():
    truth, prediction = np.zeros((2, 11, 7, 7), np.uint8)
    truth[2:6, 2:5, 1:6] = 1  # 4 x 3 x 5
    prediction[2:7, 2:5, 1:6] = 1  # 5 x 3 x 5: one layer of 15 voxels more along x
    row = metrics.case_metrics(truth, prediction, (2, 1, 1))
    assert row["dice"] == pytest.approx(2 * 60 / 135)
    assert row["iou"] == pytest.approx(60 / 75)
    assert row["volume_error_ml"] == pytest.approx(15 * 2 / 1000)
    # Surfaces: 60 - 2*1*3 = 54 and 75 - 3*1*3 = 66 voxels. Prediction to truth: the layer of 15
    # is 2 mm away, all else 0. Truth to prediction: of truth's end face only the 3 inner voxels
    # are no surface of the prediction; their nearest one is 1 mm away, in y.
    assert row["assd_mm"] == pytest.approx((15 * 2 + 3 * 1) / (54 + 66))
    assert row["hd95_mm"] == pytest.approx(2)


def test_identical_masks_are_perfect_even_when_they_fill_the_array():
    mask = np.ones((3, 5, 2), np.int16)
    row = metrics.case_metrics(mask, mask * 420, SPACING)
    assert row["dice"] == row["iou"] == row["slice_dice"] == row["slice_iou"] == 1
    assert row["hd95_mm"] == row["assd_mm"] == row["volume_error_ml"] == 0
    # The outside of the array counts as background, and no voxel has a neighbour on both z sides.
    assert len(metrics.surface_distances(mask, mask, SPACING)[0]) == mask.size


@pytest.mark.parametrize("empty", ["truth", "prediction", "both"])
def test_empty_masks(empty):
    truth, prediction = np.zeros((2, 5, 3, 7), bool)
    truth[1, 1, 1] = empty == "prediction"
    prediction[1, 1, 1] = empty == "truth"
    row = metrics.case_metrics(truth, prediction, SPACING)
    assert row["dice"] == row["iou"] == (1 if empty == "both" else 0)
    assert math.isnan(row["hd95_mm"]) and math.isnan(row["assd_mm"])
    assert [d.size for d in metrics.surface_distances(truth, prediction, SPACING)] == [0, 0]
    if empty == "both":
        assert math.isnan(row["slice_dice"]) and math.isnan(row["slice_iou"])
    else:
        assert row["slice_dice"] == row["slice_iou"] == 0


def test_translation_and_padding_change_nothing():
    rng = np.random.default_rng(1)
    truth, prediction = blob(rng, (7, 5, 11), 9), blob(rng, (7, 5, 11), 9)
    expected = metrics.case_metrics(truth, prediction, SPACING)
    for before in [(0, 0, 0), (13, 0, 2), (1, 17, 29)]:
        widths = [(b, 3) for b in before]
        row = metrics.case_metrics(np.pad(truth, widths), np.pad(prediction, widths), SPACING)
        assert row == pytest.approx(expected, rel=1e-12)


def test_exchanging_the_masks_changes_only_the_signs():
    rng = np.random.default_rng(2)
    a, b = blob(rng, (7, 5, 11), 9), blob(rng, (7, 5, 11), 4)
    ab, ba = metrics.case_metrics(a, b, SPACING), metrics.case_metrics(b, a, SPACING)
    assert ab["volume_error_ml"] == -ba["volume_error_ml"] != 0
    assert ab["truth_ml"] == ba["prediction_ml"]
    for name in ("dice", "iou", "hd95_mm", "assd_mm", "slice_dice", "slice_iou"):
        assert ab[name] == pytest.approx(ba[name])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slice_metrics_skip_slices_empty_in_both(axis):
    truth, prediction = np.zeros((2, 5, 4, 4), np.uint8)
    truth[0, :2, :2] = prediction[0, :2, :2] = 1  # 4 of 4: Dice 1, IoU 1
    truth[1, :2, :2] = prediction[1, 0, :] = 1  # 2 of 4 and 4: Dice 1/2, IoU 1/3
    prediction[3, 0, 0] = 1  # nothing to find: 0
    truth, prediction = np.moveaxis(truth, 0, axis), np.moveaxis(prediction, 0, axis)
    found = metrics.slice_metrics(truth, prediction, axis)
    assert found["slice_dice"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["slice_iou"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    row = metrics.case_metrics(truth, prediction, SPACING, axis)
    assert {name: row[name] for name in found} == found


def test_slices_lie_along_the_last_axis_unless_told():
    truth, prediction = np.random.default_rng(2).random((2, 5, 3, 7)) < 0.3
    of_axis = [metrics.slice_metrics(truth, prediction, axis) for axis in range(3)]
    assert metrics.slice_metrics(truth, prediction) == of_axis[2]
    for default in (metrics.case_metrics(truth, prediction, SPACING), of_axis[2]):
        assert default["slice_dice"] == of_axis[2]["slice_dice"] != of_axis[0]["slice_dice"]
    for axis in range(3):
        assert metrics.slice_metrics(truth, prediction, axis - 3) == of_axis[axis]


def test_a_stray_voxel_in_a_large_volume_costs_no_time():
    truth, prediction = np.zeros((2, 251, 251, 41), bool)
    truth[100:150, 100:150, 10:30] = prediction[100:150, 100:151, 10:30] = True
    prediction[0, 0, 0] = prediction[250, 250, 40] = True
    there, back = metrics.surface_distances(truth, prediction, SPACING)
    assert there.max() == pytest.approx(1.3)  # the covered face of truth, one y step inside
    assert back.max() == pytest.approx(math.hypot(101 * 0.7, 101 * 1.3, 11 * 2.9))


def test_unequal_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(3, 5, 7\).*\(3, 5, 11\)"):
        metrics.case_metrics(np.zeros((3, 5, 7)), np.zeros((3, 5, 11)), SPACING)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, -1, 1), (1, math.nan, 1)])
def test_bad_spacing_is_refused(spacing):
    mask = np.ones((3, 3, 3), bool)
    with pytest.raises(ValueError, match="three positive numbers"):
        metrics.case_metrics(mask, mask, spacing)


def row(**values):
    return {"case": "train_1", **dict.fromkeys(metrics.METRICS, 0.5), **values}


def test_summary_means_sd_and_counts():
    rows = [
        row(hd95_mm=2.0, truth_ml=80.0),
        row(hd95_mm=5.0, truth_ml=90.0),
        row(hd95_mm=math.nan, assd_mm=math.nan, prediction_ml=0.0),
        row(hd95_mm=math.nan, assd_mm=math.nan, truth_ml=0.0, prediction_ml=0.0),
    ]
    summary = metrics.summarise(rows)
    assert summary["hd95_mm"] == {"mean": 3.5, "sd": pytest.approx(3 / math.sqrt(2)), "n": 2}
    assert summary["truth_ml"]["n"] == summary["n_cases"] == 4
    assert summary["n_empty_truth"] == 1
    assert summary["n_empty_prediction"] == 2
    assert summary["n_distances_excluded"] == 2
    assert metrics.summarise(rows[1:])["n_distances_excluded"] == 2  # of 3
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_summary_of_one_case_and_of_none():
    one = metrics.summarise([row(slice_dice=math.nan, slice_iou=math.nan)])
    assert one["dice"] == {"mean": 0.5, "sd": None, "n": 1}
    assert one["slice_dice"] == {"mean": None, "sd": None, "n": 0}
    assert one["dice_iou_check"]["slice"] == {"floor": None, "found": None, "consistent": None}
    assert metrics.summarise([])["n_cases"] == 0
    json.dumps([one, metrics.summarise([])], allow_nan=False)


def test_check_catches_the_pair_that_no_masks_can_have():
    """Dice 92.3 and IoU 84.1 (arXiv 2502.06615, abstract): the floor is 0.923 / 1.077 = 0.857."""
    check = metrics.summarise([row(dice=0.923, iou=0.841, slice_dice=0.915, slice_iou=0.845)])[
        "dice_iou_check"
    ]
    assert check["volume"]["floor"] == pytest.approx(0.8570102)
    assert check["volume"]["found"] == 0.841
    assert check["volume"]["consistent"] is False
    assert check["slice"]["consistent"] is True  # a published pair that is possible


def test_check_passes_whatever_real_masks_give():
    rng = np.random.default_rng(3)
    rows = [
        metrics.case_metrics(blob(rng, (5, 7, 3), 3), blob(rng, (5, 7, 3), 3), SPACING)
        for _ in range(50)
    ]
    for count in (1, 50):
        check = metrics.summarise(rows[:count])["dice_iou_check"]
        assert check["volume"]["consistent"] is True and check["slice"]["consistent"] is True
