"""Choosing a setting: every one of the grid against the plain way, and ties."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from configs import default
from lagseg_jax.config.flags import parse_flags
from lagseg_jax.data.layouts.detect import Case
from lagseg_jax.evaluation.metrics import dice
from lagseg_jax.evaluation.tuning import (
    best_setting,
    dice_of_settings,
    grid,
    score_grid,
    score_test_cases,
    seconds_per_volume,
)
from lagseg_jax.imaging.masks import clean_mask
from lagseg_jax.inference.postprocess import DEFAULT, PostProcessing
from lagseg_jax.main import define_flags

AFFINE = np.diag([-1.5, -1.25, 3.0, 1.0])


@pytest.fixture
def case():
    """A blob, an islet, and probabilities that are rough from slice to slice."""
    rng = np.random.default_rng(0)
    truth = np.zeros((37, 31, 17), np.uint8)
    truth[9:21, 8:20, 4:12], truth[26:33, 22:29, 11:16] = 1, 1
    blurred = gaussian_filter(truth.astype(float), 0.7) + rng.normal(0, 0.2, truth.shape)
    return np.clip(blurred, 0, 1).astype(np.float32), truth * np.int16(420)


def test_every_setting_is_scored_as_if_it_were_the_only_one(case):
    probability, truth = case
    settings = grid([3.0])
    assert len(settings) == len(set(settings)) == 4 * 9 * 2
    assert {setting.smooth_mm for setting in settings} == {0, 1.5, 3, 6}
    found = dice_of_settings(probability, truth, AFFINE, settings)
    assert list(found) == settings
    for setting in settings:
        smoothed = probability
        if setting.smooth_mm:
            smoothed = gaussian_filter1d(probability, setting.smooth_mm / 3, 2, mode="nearest")
        mask = clean_mask(smoothed >= setting.threshold, (1, 1, 1), setting.components)
        np.testing.assert_allclose(found[setting], dice(truth, mask), err_msg=str(setting))
    # The islet is in the truth, and noise from slice to slice is there to be smoothed.
    best = max(found, key=lambda setting: found[setting])
    assert best.components == 0 and best.smooth_mm > 0 and found[best] > found[DEFAULT] + 0.02


def test_a_volume_without_any_atrium(case):
    found = dice_of_settings(case[0] * 0, case[1] * 0, AFFINE, grid([3.0]))
    assert set(found.values()) == {1.0} and list(found) == grid([3.0])


def test_slices_are_those_of_the_coarsest_axis(tmp_path):
    """The first one here; the last would give another Dice per slice."""
    truth, mask = np.zeros((13, 11, 7), np.int16), np.zeros((13, 11, 7), np.float32)
    truth[2:8, 3:8, 2:5], mask[3:9, 3:8, 2:5] = 420, 1
    paths = [tmp_path / f"{name}.nii.gz" for name in ("image", "label")]
    for path in paths:
        nib.save(nib.Nifti1Image(truth, np.diag([3.0, 1.5, 1.5, 1.0])), path)
    segmenter = SimpleNamespace(
        config=default.get_config(), plane="", predict_probability=lambda *_, **__: mask
    )
    rows, _ = score_test_cases(segmenter, [Case("c", "p", *paths)], (DEFAULT, DEFAULT))
    for setting in ("default", "chosen"):
        assert rows[setting][0]["slice_dice"] == pytest.approx(5 / 7)


def test_the_grid_is_scored_on_every_case_and_has_the_distance_of_its_slices(case, tmp_path):
    probability, truth = case
    for name in ("image", "label"):
        nib.save(nib.Nifti1Image(truth, AFFINE), tmp_path / f"{name}.nii.gz")
    segmenter = SimpleNamespace(
        config=default.get_config(), plane="", predict_probability=lambda *_, **__: probability
    )
    cases = [Case(n, n, tmp_path / "image.nii.gz", tmp_path / "label.nii.gz") for n in "ab"]
    found = score_grid(segmenter, cases)
    assert {setting.smooth_mm for setting in found} == {0, 1.5, 3, 6}
    assert found[DEFAULT] == [dice(truth, clean_mask(probability >= 0.5, (1, 1, 1), 1))] * 2


def test_times_are_of_what_they_are_called(tmp_path):
    """One slice first, which compiles; mirrored and smoothed in their turns only."""
    voxels, calls = np.zeros((13, 11, 7), np.int16), []
    voxels[2:8, 3:8, 2:5] = 420
    for name in ("image", "label"):
        nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / f"{name}.nii.gz")

    def segment(volume, tta, post):
        calls.append((volume.array.shape, tta, post.smooth_mm))

    segmenter = SimpleNamespace(config=default.get_config(), plane="", segment=segment)
    case = Case("c", "p", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    assert list(seconds_per_volume(segmenter, case)) == ["plain", "tta", "smoothing"]
    shapes, mirrored, smoothed = zip(*calls)
    assert shapes == ((13, 11, 1), (13, 11, 7)) * 3
    assert mirrored == (False, False, True, True, False, False)
    assert smoothed == (0, 0, 0, 0, 3, 3)


def test_the_unit_of_smoothing_is_the_median_distance_of_slices():
    assert {setting.smooth_mm for setting in grid([1.0, 2.5, 4.0])} == {0, 1.25, 2.5, 5}
    assert {setting.smooth_mm for setting in grid([1.2346])} == {0, 0.617, 1.235, 2.469}  # whole um


def test_of_equal_settings_the_one_nearest_to_the_default():
    best = PostProcessing(0.8, 0, 2.0)
    scores = {best: 0.9, PostProcessing(0.6): 0.9 - 1e-9, PostProcessing(0.3): 0.9, DEFAULT: 0.8}
    of_one_case = {setting: [dice] for setting, dice in scores.items()}
    assert best_setting(of_one_case) == PostProcessing(0.6)
    assert best_setting({**of_one_case, best: [0.91]}) == best


def test_a_gain_within_one_standard_error_is_none():
    """0.01 in the mean: one case gains 0.04 and one loses 0.01, or all three gain."""
    default = np.array([0.9, 0.8, 0.7])
    luck, gain = (default + np.array(d) for d in ([0.04, 0, -0.01], [0.012, 0.008, 0.01]))
    assert best_setting({DEFAULT: default, PostProcessing(0.3): luck}) == DEFAULT
    assert best_setting({DEFAULT: default, PostProcessing(0.3): gain}) == PostProcessing(0.3)
    as_good = default + np.array([0.01, 0.01, 0.008])
    scores = {DEFAULT: default, PostProcessing(0.4): as_good, PostProcessing(0.3): gain}
    assert best_setting(scores) == PostProcessing(
        0.4
    )  # nearer to the default, which is not as good


def test_fields_are_read_by_the_command_line():
    setting = PostProcessing(0.3, 0, 1.875)
    arguments = ["main", "--config=configs/base.py", "--config.predict.threshold=0.7"]
    predict = parse_flags([*arguments, *setting.flags()], define_flags).config.predict
    assert PostProcessing.of(predict) == setting
    assert str(setting) == "threshold 0.3, all components, smoothed by 1.875 mm"
    assert str(DEFAULT) == "threshold 0.5, 1 component, not smoothed"


def test_the_default_is_the_configs():
    assert PostProcessing.of(default.get_config().predict) == DEFAULT
