"""Phantoms have the anatomy, the difficulty and the files that they promise."""

import os
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from lagseg_jax.data import phantom
from lagseg_jax.runtime.errors import InputError

LGE, CT = phantom.FAMILIES["lge"], phantom.FAMILIES["ct"]
SMALL = {"shape": (13, 11, 7), "spacing": (9.0, 10.0, 8.5)}


@pytest.fixture(scope="module")
def cases():
    return [phantom.make_case(np.random.default_rng([5, number])) for number in range(8)]


@pytest.fixture(scope="module")
def ct():
    return [phantom.make_case(np.random.default_rng([5, n]), family="ct") for n in range(5)]


def best_threshold_dice(image, label):
    """Largest Dice that any `image > threshold` reaches, over all thresholds at once."""
    order = np.argsort(-image.ravel(), kind="stable")
    found = np.cumsum(label.ravel()[order])
    return (2 * found / (np.arange(1, found.size + 1) + label.sum())).max()


def test_types_and_shapes(cases):
    for image, label in cases:
        assert image.shape == label.shape == LGE.shape
        assert image.dtype == np.int16 and label.dtype == np.uint8
        assert image.min() >= 0 and set(np.unique(label)) == {0, 1}


def test_the_atrium_is_one_piece_of_a_human_size(cases):
    for _, label in cases:
        assert 40 < label.sum() * np.prod(LGE.spacing) / 1000 < 120  # mL
        labels, count = ndimage.label(label, np.ones((3, 3, 3)))
        assert np.bincount(labels.ravel())[1:].max() > 0.98 * label.sum(), count
        extent = np.ptp(np.argwhere(label), axis=0) * LGE.spacing
        assert extent[0] > extent[1]  # wider than deep, as atria between the veins are
        assert label.any((0, 1)).mean() > 0.5  # visible in most slices


def test_cases_differ(cases):
    volumes = [label.sum() for _, label in cases]
    brightness = [image[label > 0].mean() for image, label in cases]
    assert np.std(volumes) > 0.08 * np.mean(volumes)
    assert np.std(brightness) > 0.1 * np.mean(brightness)


def test_brightness_alone_does_not_find_the_atrium(cases):
    for image, label in cases:
        assert best_threshold_dice(image, label) < 0.75
        # ... not for want of contrast: against its close surroundings the atrium stands out.
        shell = ndimage.binary_dilation(label, iterations=4) & ~ndimage.binary_dilation(label)
        assert image[label > 0].mean() > 1.3 * image[shell].mean()


def test_some_of_the_wall_is_scar(cases):
    bright = []
    for image, label in cases:
        wall = ndimage.binary_dilation(label) & (label == 0)
        inside = image[ndimage.binary_erosion(label)]
        bright.append((image[wall] > inside.mean() + 2 * inside.std()).mean())
    assert 0.01 < np.mean(bright) < 0.5


def test_ct_is_in_hounsfield_units(ct):
    for image, label in ct:
        assert image.dtype == np.int16 and image.shape == label.shape == CT.shape
        assert np.prod(CT.shape) != np.prod(LGE.shape) and CT.spacing != LGE.spacing
        blood = np.median(image[label > 0])
        assert 280 < blood < 520  # HU; fat lies below water, lung and air far below
        lung = ndimage.binary_erosion((image < -700) & (image > -950), iterations=2)
        assert lung.mean() > 0.05 and image.min() >= -1024
        assert 40 < label.sum() * np.prod(CT.spacing) / 1000 < 120  # mL
        assert best_threshold_dice(image, label) < 0.75  # the ventricle and the aorta, as bright


def test_the_heart_of_a_case_is_the_same_in_both_families():
    one, other = (
        phantom.make_case(np.random.default_rng(3), LGE.shape, LGE.spacing, family)
        for family in ("lge", "ct")
    )
    np.testing.assert_array_equal(one[1], other[1])
    assert (one[0] != other[0]).mean() > 0.9


def test_background_noise_is_rician(cases):
    """Where there is no signal, magnitude is Rayleigh: mean / SD = sqrt(pi / (4 - pi)) = 1.913."""
    image, _ = phantom.make_case(np.random.default_rng(0), (41, 41, 5), (12.0, 12.0, 2.75))
    air = image[:4].astype(float)  # the chest is 320 mm wide in these 492 mm
    assert air.mean() / air.std() == pytest.approx(1.913, abs=0.1)


def test_same_seed_same_case():
    one, other, third = (
        phantom.make_case(np.random.default_rng(seed), **SMALL) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    assert (one[0] != third[0]).any()
    assert one[0].shape == SMALL["shape"]


def test_written_files(tmp_path):
    root = phantom.write_dataset(tmp_path / "phantom", cases=3, seed=2, **SMALL)
    folders = sorted((root / "task2" / "train_data").iterdir())
    assert [folder.name for folder in folders] == ["train_1", "train_2", "train_3"]
    for folder in folders:
        assert sorted(f.name for f in folder.iterdir()) == [
            "atriumSegImgMO.nii.gz",
            "enhanced.nii.gz",
        ]
        image = nibabel.load(folder / "enhanced.nii.gz")
        label = nibabel.load(folder / "atriumSegImgMO.nii.gz")
        assert image.shape == label.shape == SMALL["shape"]
        assert image.get_data_dtype() == label.get_data_dtype() == np.int16
        assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
        assert image.header.get_zooms() == SMALL["spacing"]
        np.testing.assert_array_equal(image.affine, label.affine)
        assert set(np.unique(np.asarray(label.dataobj))) == {0, 420}


def test_interrupted_dataset_is_completed_and_a_finished_one_left_alone(tmp_path):
    def state(root):
        files = (file for file in sorted(root.rglob("*")) if file.is_file())
        return {
            file.relative_to(root): (file.read_bytes(), file.stat().st_mtime_ns) for file in files
        }

    whole = state(phantom.write_dataset(tmp_path / "whole", cases=3, **SMALL))
    root = phantom.write_dataset(tmp_path / "cut", cases=3, **SMALL)
    data = root / "task2" / "train_data"
    (data / "train_2" / "atriumSegImgMO.nii.gz").unlink()
    for file in (data / "train_3").iterdir():
        file.unlink()
    os.rmdir(data / "train_3")
    kept = state(root)
    completed = state(phantom.write_dataset(root, cases=3, **SMALL))
    assert {name: content for name, (content, _) in completed.items()} == {
        name: content for name, (content, _) in whole.items()
    }
    untouched = [name for name in kept if "train_2" not in name.parts]
    assert all(completed[name] == kept[name] for name in untouched)
    assert state(phantom.write_dataset(root, cases=3, **SMALL)) == completed


def test_other_parameters_and_foreign_folders_are_refused(tmp_path):
    root = phantom.write_dataset(tmp_path / "phantom", cases=1, seed=0, **SMALL)
    with pytest.raises(InputError, match=r"phantom\.json .*'seed': 0.*'seed': 1"):
        phantom.write_dataset(root, cases=1, seed=1, **SMALL)
    with pytest.raises(InputError, match=r"phantom\.json .*'lge'.*'ct'"):
        phantom.write_dataset(root, cases=1, seed=0, family="ct", **SMALL)
    with pytest.raises(InputError, match="family is 'mri', expected one of lge, ct"):
        phantom.write_dataset(tmp_path / "other", family="mri")
    (tmp_path / "patients" / "task2").mkdir(parents=True)
    with pytest.raises(InputError, match=r"patients holds files but no phantom\.json"):
        phantom.write_dataset(tmp_path / "patients", cases=1, **SMALL)


def test_cases_made_side_by_side_are_the_same(tmp_path):
    phantom.write_dataset(tmp_path / "one", 2, **SMALL)
    with ThreadPoolExecutor(2) as pool:
        phantom.write_dataset(tmp_path / "two", 2, **SMALL, each=pool.map)
    one, two = (sorted((tmp_path / name).rglob("*.nii.gz")) for name in ("one", "two"))
    assert len(one) == 4
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(nibabel.load(a).dataobj, nibabel.load(b).dataobj)
