"""Labels whose values are no whole numbers: rounded and said, refused, or cut at a threshold."""

import logging
from argparse import Namespace

import nibabel as nib
import numpy as np
import pytest

from lagseg_jax.imaging.labels import (
    FractionalLabelError,
    LabelRule,
    is_without,
    parse_values,
    read_label,
)
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.runtime.errors import InputError

AFFINE = np.diag([-1.5, -1.5, 2.75, 1])


def save(path, array):
    nib.save(nib.Nifti1Image(array, AFFINE, dtype=array.dtype), path)
    return path


def ball(soft):
    """An ellipsoid; soft: 1 inside, 0 outside, 0.5 on its surface."""
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 for n in (37, 31, 23)), indexing="ij")
    radius = np.sqrt((x / 12) ** 2 + (y / 10) ** 2 + (z / 8) ** 2)
    return np.clip((1.15 - radius) / 0.3, 0, 1) if soft else (radius < 1).astype(float)


def test_nearly_whole_numbers_are_rounded_and_said(tmp_path, caplog):
    hard = ball(False)
    nearly = hard.astype(np.float32)
    nearly[::2] *= np.float32(0.9999999)
    path = save(tmp_path / "a.nii", nearly)
    for rule in (LabelRule(), LabelRule(1)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            np.testing.assert_array_equal(read_label(path, rule).array, hard)
        assert f"{path}: label with values up to 1e-07 from whole numbers found" in caplog.text


@pytest.mark.parametrize(("scale", "dtype"), [(1, np.float32), (255, np.float32), (255, np.uint8)])
@pytest.mark.parametrize("named", [True, False])
def test_interpolated_labels_are_refused_unless_cut(tmp_path, scale, dtype, named):
    path = save(tmp_path / "a.nii", (scale * ball(True)).astype(dtype))
    with pytest.raises(FractionalLabelError) as error:
        read_label(path, LabelRule(scale if named else 0, option="--label_"))
    said = str(error.value)
    assert said.startswith(f"{path}: ") and "nearest neighbour" in said
    assert "--label_threshold" in said and "label_value" not in said
    cut = read_label(path, LabelRule(threshold=scale / 2)).array
    np.testing.assert_array_equal(cut, (scale * ball(True)).astype(dtype) >= scale / 2)


def test_many_structures_are_no_grades(tmp_path):
    """An atlas of thirty structures with background between them needs a value, and takes it."""
    array = np.zeros((61, 7, 5), np.int16)
    array[1::2, 3, 2] = np.arange(1, 31)
    path = save(tmp_path / "a.nii", array)
    np.testing.assert_array_equal(read_label(path, LabelRule(7)).array, array == 7)


def test_several_values_are_merged(tmp_path):
    """Cavity and wall as one mask; a label may lack one of them, but not all."""
    array = np.zeros((13, 11, 7), np.int16)
    array[2:5], array[5:9], array[9:11] = 1, 2, 7
    path = save(tmp_path / "a.nii", array)
    np.testing.assert_array_equal(read_label(path, LabelRule((1, 2))).array, (array % 7) > 0)
    np.testing.assert_array_equal(read_label(path, LabelRule((7, 9))).array, array == 7)
    with pytest.raises(InputError, match=r"values 1, 2, 7, expected .*value=\(3, 4\) among them"):
        read_label(path, LabelRule((3, 4)))
    assert LabelRule((1, 2, 5)).merged == "label values 1, 2 and 5 are merged into one mask"
    assert LabelRule(1).merged is LabelRule((1,)).merged is LabelRule().merged is None


@pytest.mark.parametrize(
    ("text", "value"), [("420", 420), ("0", 0), ("1,2", (1, 2)), ("(1, 2,)", (1, 2)), ("(3)", 3)]
)
def test_values_of_options(text, value):
    assert parse_values(text) == value


@pytest.mark.parametrize("text", ["", "a", "1,a", "-1", "0,1", "1.5", "()"])
def test_texts_that_are_no_values(text):
    with pytest.raises(ValueError):
        parse_values(text)


@pytest.mark.parametrize(
    ("rule", "without"),
    [
        *((LabelRule(), False), (LabelRule(1), False), (LabelRule(2), True)),
        *((LabelRule(threshold=1), False), (LabelRule(threshold=1.5), True)),
    ],
)
def test_labels_without_an_atrium_by_the_rule(tmp_path, rule, without):
    volume = read_volume(save(tmp_path / "a.nii", ball(False).astype(np.float32)))
    assert is_without(volume, rule) is without


def test_a_label_of_fractions_is_not_called_one_without_an_atrium(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii", 0.5 * ball(False)))
    assert not is_without(volume, LabelRule(1))


@pytest.mark.parametrize("value, threshold", [(1, 0.5), (0, -0.5), (0, np.inf), (0, np.nan)])
def test_options_that_are_no_rule(value, threshold):
    options = Namespace(label_value=value, label_threshold=threshold)
    with pytest.raises(InputError, match=f"--label_value is {value} and --label_threshold is"):
        LabelRule.given(options, "label")


@pytest.mark.parametrize("value, threshold", [(0, 0), (420, 0), (0, 0.5)])
def test_options_that_are_a_rule(value, threshold):
    options = Namespace(prediction_value=value, prediction_threshold=threshold)
    expected = LabelRule(value, threshold, "--prediction_")
    assert LabelRule.given(options, "prediction") == expected
