"""The cache decodes a file once, never serves old content, keeps its bound, survives kills."""

import os
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from lagseg_jax.data import prepare as module
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.data.prepare import cache_folder, prepare_cases
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.slices import network_images, network_masks, to_slices
from lagseg_jax.runtime import console
from lagseg_jax.runtime.errors import InputError
from prepared import AFFINE, PREPARATION, SHAPE, names, prepare


def fail(*_):
    raise AssertionError("a file was decoded")


def test_content(cases, folder):
    prepared = prepare(cases, folder)
    assert [p.name for p in prepared] == ["case_0", "case_1", "case_2"]
    for case, p in zip(cases, prepared):
        slices, _ = to_slices(np.asarray(nib.load(case.image).dataobj), AFFINE)
        labels, _ = to_slices(np.asarray(nib.load(case.label).dataobj) == 420, AFFINE)
        images = network_images(slices, 28, (0.5, 99.5)).astype(np.float16)
        np.testing.assert_array_equal(p.images, images)
        np.testing.assert_array_equal(p.masks, network_masks(labels, 28))
        assert p.images.dtype == np.float16 and p.masks.dtype == np.uint8
        assert isinstance(p.images, np.memmap) and isinstance(p.masks, np.memmap)


def test_the_second_time_nothing_is_decoded(cases, folder, monkeypatch):
    first = prepare(cases, folder)
    monkeypatch.setattr(module, "inspect_case", fail)
    second = prepare(cases[::-1], folder)[::-1]
    for a, b in zip(first, second):
        assert a.name == b.name
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.masks, b.masks)


@pytest.mark.parametrize("part", ["image", "label"])
def test_a_changed_file_is_decoded_again(cases, folder, part):
    before = prepare(cases[:1], folder)[0]
    path = getattr(cases[0], part)
    other = getattr(cases[1], part)
    path.write_bytes(other.read_bytes())
    after = prepare(cases[:1], folder)[0]
    changed = {"image": "images", "label": "masks"}[part]
    assert not np.array_equal(getattr(before, changed), getattr(after, changed))
    assert len(names(folder)) == 2


def test_a_new_time_of_change_is_enough(cases, folder):
    prepare(cases[:1], folder)
    stat = cases[0].label.stat()
    os.utime(cases[0].label, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    prepare(cases[:1], folder)
    assert len(names(folder)) == 2


@pytest.mark.parametrize(
    "change", [{"image_size": 42}, {"clip_percentiles": (1.0, 99.5)}, {"label_value": 420}]
)
def test_every_setting_has_entries_of_its_own(cases, folder, change):
    prepare(cases[:1], folder)
    prepare(cases[:1], folder, replace(PREPARATION, **change))
    assert len(names(folder)) == 2


def test_all_bad_files_are_named_the_first_one_at_once(cases, folder, caplog, monkeypatch):
    inspect, said = module.inspect_case, []

    def slow(case, *options):
        said.append("image_0.nii.gz" in caplog.text)
        return inspect(case, *options)

    for number in (0, 2):
        cases[number].image.write_bytes(cases[number].image.read_bytes()[:-50])
    monkeypatch.setattr(module, "inspect_case", slow)
    monkeypatch.setattr(console.os, "cpu_count", lambda: 1)
    with pytest.raises(InputError, match=r"2 of 3 cases .* the first: .*image_0\.nii\.gz"):
        prepare(cases, folder)
    assert said == [False, True, True]
    assert "image_2.nii.gz" in caplog.text and "image_1.nii.gz" not in caplog.text
    assert len(names(folder)) == 1  # the good one needs not be decoded again
    with pytest.raises(InputError, match=r"^\S*image_2\.nii\.gz: "):
        prepare(cases[1:], folder)


def test_a_case_without_label_and_a_missing_file_are_named(cases, folder):
    cases[1].label.unlink()
    with pytest.raises(InputError, match=r"image_1\.nii\.gz.* without its label.*label_1"):
        prepare(cases, folder)
    cases[2].image.unlink()
    with pytest.raises(InputError, match=r"label_2\.nii\.gz: label without its image.*image_2"):
        prepare([cases[0], cases[2]], folder)


def test_cases_that_are_only_checked(cases, folder, monkeypatch):
    """Test cases: read once, not decoded, and never taken for decoded ones."""
    prepared = prepare_cases(cases[:1], PREPARATION, folder, 1.0, only_checked=cases[1:])
    assert [case.name for case in prepared] == ["case_0"]
    assert len(names(folder)) == 3 and len(list(folder.glob("*/images.npy"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(module, "inspect_case", fail)
        prepare_cases(cases[:1], PREPARATION, folder, 1.0, only_checked=cases[1:])
    assert prepare(cases[1:2], folder)[0].images.shape == (5, 28, 28)
    cases[2].label.write_bytes(b"broken")
    with pytest.raises(InputError, match=r"label_2\.nii\.gz"):
        prepare_cases(cases[:1], PREPARATION, folder, 1.0, only_checked=cases[1:])


def empty_label(case):
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE), case.label)


def test_an_empty_label_is_refused_unless_it_is_allowed(cases, folder):
    empty_label(cases[0])
    allowed = replace(PREPARATION, reading=Reading(allow=("empty_label",)))
    for _ in range(2):  # read, and from the record
        with pytest.raises(InputError, match=r"label_0\.nii\.gz: empty label"):
            prepare(cases, folder)
        assert not prepare(cases, folder, allowed)[0].masks.any()


def test_a_case_that_cannot_be_used_is_not_kept(cases, folder):
    """Voxels that are not finite: readable, but no image."""
    image = np.asarray(nib.load(cases[0].image).dataobj).astype(np.float32)
    image[3, 2, 1] = np.nan
    nib.save(nib.Nifti1Image(image, AFFINE), cases[0].image)
    with pytest.raises(InputError, match=r"image_0\.nii\.gz"):
        prepare(cases[:1], folder)
    assert not names(folder)


def test_the_same_voxels_in_two_files_are_refused(cases, folder):
    """The split would not know: one copy could be trained on, the other tested on."""
    voxels = np.asarray(nib.load(cases[0].image).dataobj)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), AFFINE), cases[2].image)
    with pytest.raises(InputError, match=r"image_2\.nii\.gz: the same image as .*image_0"):
        prepare_cases(cases[:2], PREPARATION, folder, 1.0, only_checked=cases[2:])


def test_labels_of_another_structure_are_refused_and_named(cases, folder, caplog):
    """Each label is one value, but not the same: the other may be another structure."""
    voxels = np.asarray(nib.load(cases[1].label).dataobj) // 420 * 2
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), AFFINE), cases[1].label)
    with pytest.raises(InputError, match=r"label_1\.nii\.gz: the only value of this label is 2"):
        prepare(cases, folder)
    assert "unlike_values" in caplog.text and "label_1.nii.gz" in caplog.text
    allowed = replace(PREPARATION, reading=Reading(allow=("unlike_values",)))
    assert len(prepare(cases, folder, allowed)) == 3


def test_the_cap_on_decoded_bytes_reaches_the_files(cases, folder):
    with pytest.raises(InputError, match=r"1430 bytes of voxels .* at most 1000"):
        prepare(cases[:1], folder, replace(PREPARATION, reading=Reading(max_bytes=1000)))


def test_folder(monkeypatch, tmp_path):
    assert cache_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("~/slices") == tmp_path / "slices"
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("") == tmp_path / ".cache" / "lagseg_jax" / "slices"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("") == tmp_path / "xdg" / "lagseg_jax" / "slices"


def rewrite(path, affine, code=1):
    """The same voxels with another affine; code 0: the file does not say what its axes mean."""
    image = nib.Nifti1Image(np.asarray(nib.load(path).dataobj), affine)
    image.set_sform(affine, code)
    image.set_qform(None, 0)
    path.unlink()
    nib.save(image, path)


def test_a_told_orientation_makes_the_same_slices_and_is_said(cases, folder, caplog):
    expected = prepare(cases, folder)
    for path in (cases[1].image, cases[1].label):
        rewrite(path, AFFINE, code=0)
    with pytest.raises(InputError, match="orientation is not known"):
        prepare(cases, folder)
    found = prepare(cases, folder, replace(PREPARATION, reading=Reading(orientation="LPS")))
    assert "orientation of 1 case: LPS as told" in caplog.text
    np.testing.assert_array_equal(found[1].images, expected[1].images)
    np.testing.assert_array_equal(found[1].masks, expected[1].masks)
    # Another orientation is another entry of the cache.
    turned = prepare(cases, folder, replace(PREPARATION, reading=Reading(orientation="RPS")))
    np.testing.assert_array_equal(turned[1].images, expected[1].images[:, :, ::-1])


def test_planes_are_one_known_and_can_be_told(cases, folder):
    assert [case.plane for case in prepare(cases, folder)] == ["axial"] * 3
    coronal = np.diag([-1.25, -5.0, 1.25, 1.0])
    for path in (cases[1].image, cases[1].label):
        rewrite(path, coronal)
    with pytest.raises(InputError, match="another axis than most cases, into coronal slices"):
        prepare(cases, folder)
    allowed = prepare(cases, folder, replace(PREPARATION, reading=Reading(allow=("plane",))))
    assert [case.plane for case in allowed] == ["axial", "coronal", "axial"]
    assert len(allowed[1].images) == SHAPE[1]
    told = prepare(cases, folder, replace(PREPARATION, reading=Reading(plane="axial")))
    assert [case.plane for case in told] == ["axial"] * 3
    assert len(told[1].images) == SHAPE[2]


def test_a_label_off_the_grid_is_laid_on_by_index_if_allowed(cases, folder, caplog):
    expected = prepare(cases, folder)
    rewrite(cases[1].label, np.diag([1.25, -1.25, 2.5, 1.0]))  # mirrored by its header
    with pytest.raises(InputError, match="voxels apart"):
        prepare(cases, folder)
    found = prepare(cases, folder, replace(PREPARATION, reading=Reading(allow=("geometry",))))
    assert "allowed by config.data.allow (geometry 1)" in caplog.text
    np.testing.assert_array_equal(found[1].masks, expected[1].masks)


def test_a_change_under_the_same_size_and_date_is_seen(phantom, tmp_path):
    shutil.copytree(phantom, tmp_path / "data")
    case = detect(tmp_path / "data").cases[0]
    before = module._key(case, PREPARATION, "decoded")
    state = case.label.stat()
    content = bytearray(case.label.read_bytes())
    content[-1] ^= 1
    case.label.write_bytes(content)
    os.utime(case.label, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert case.label.stat().st_size == state.st_size
    assert module._key(case, PREPARATION, "decoded") != before
