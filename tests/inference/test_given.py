"""What a caller of the Python interface is told about the volumes that are given."""

import nibabel
import numpy as np
import pytest

from lagseg_jax.imaging.volume import read_volume


def test_a_mask_is_no_image(segmenter, volume):
    with pytest.raises(ValueError, match="looks like a mask"):
        segmenter.predict_volume((volume.array > 50).astype(np.uint8), affine=volume.affine)


def test_values_that_are_lost_in_float32_are_no_image(segmenter, volume):
    with pytest.raises(ValueError, match="only 1 value, 0, and shows nothing"):
        segmenter.predict_volume(volume.array * 1e-300, affine=volume.affine)


def test_a_spacing_or_affine_that_would_not_count_is_refused(segmenter, volume):
    """2.5 x 2.5 x 5 mm; of float32 and rounded to three decimals it is the same."""
    affine, spacing = volume.affine, np.float32(volume.spacing) + np.float32(0.0004)
    segmenter.predict_volume(volume.array, spacing, affine)
    with pytest.raises(ValueError, match=r"spacing of 1 x 1 x 1 mm that contradicts the affine"):
        segmenter.predict_volume(volume.array, (1, 1, 1), affine)
    image = nibabel.load(volume.path)
    for given in (volume.path, str(volume.path), volume, image):
        for how in ({"spacing": (1, 1, 1)}, {"affine": affine}):
            with pytest.raises(ValueError, match=r"given beside .* expected them beside an array"):
                segmenter.predict_volume(given, **how)


def test_what_is_unusual_is_said_and_can_be_asked_for(segmenter, volume, tmp_path, caplog):
    """47 x 2.5 mm in training: 30 degrees of tilt and three times the size are told by each way."""
    turn, (c, s) = np.eye(4), (np.cos(np.pi / 6), np.sin(np.pi / 6))
    turn[1:3, 1:3] = [[c, -s], [s, c]]
    affine = turn @ np.diag([-7.5, -7.5, 12.0, 1.0])
    image = nibabel.Nifti1Image(volume.array, affine)
    image.to_filename(path := tmp_path / "a.nii.gz")
    asked = segmenter.remarks(read_volume(path))
    tilt, odd, field = asked
    assert tilt.startswith("tilted by 30 degrees")
    assert odd.startswith("voxels of 7.5 x 7.5 x 12 mm, expected 0.2 to 3 mm in plane")
    assert field.startswith("a field of view of 352 mm")
    for predict in (segmenter.predict_volume, segmenter.predict_probability):
        for given, how in ((path, {}), (image, {}), (volume.array, {"affine": affine})):
            caplog.clear()
            predict(given, **how)
            assert [line.partition(": ")[2] for line in caplog.messages] == asked
    caplog.clear()
    segmenter.predict_volume(volume)
    assert segmenter.remarks(volume) == caplog.messages == []
    image = nibabel.Nifti1Image(volume.array, None)
    image.header.set_zooms(volume.spacing)
    segmenter.predict_volume(image, orientation="LPS")
    assert "LPS as told" in caplog.text
