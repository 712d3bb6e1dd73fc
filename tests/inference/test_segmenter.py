"""predict_volume: geometry, batching, compilation, and the inputs it refuses."""

import dataclasses
from types import SimpleNamespace

import jax
import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

import lagseg_jax
from lagseg_jax.imaging.masks import clean_mask
from lagseg_jax.inference import memory
from lagseg_jax.inference import segmenter as segmenter_module
from lagseg_jax.inference.postprocess import DEFAULT, PostProcessing
from lagseg_jax.inference.slice_probability import decoder, encoder
from segmenters import every


def test_probability_is_on_the_input_grid(segmenter, volume):
    probability = segmenter.predict_probability(volume.array, volume.spacing, volume.affine)
    assert probability.shape == volume.array.shape == (47, 43, 11)
    assert probability.dtype == np.float32
    assert 0 <= probability.min() < probability.max() <= 1
    mask = segmenter.predict_volume(
        volume.array, volume.spacing, volume.affine, post=every(segmenter)
    )
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, probability >= 0.5)


def test_orientation_of_the_file_does_not_matter(segmenter, volume):
    """The same patient stored along other axes gets the same mask, voxel for voxel."""
    image = nibabel.Nifti1Image(volume.array, volume.affine)
    probability = segmenter.predict_probability(volume.array, volume.spacing, volume.affine)
    for codes in ("RAS", "LPS", "ASL", "IRP"):
        start = nibabel.io_orientation(volume.affine)
        change = nibabel.orientations.ornt_transform(
            start, nibabel.orientations.axcodes2ornt(codes)
        )
        turned = image.as_reoriented(change)
        found = segmenter.predict_probability(
            np.asarray(turned.dataobj), turned.header.get_zooms(), turned.affine
        )
        expected = nibabel.orientations.apply_orientation(probability, change)
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=codes)


def test_letters_say_what_an_affine_says(segmenter, volume):
    spacing = (1.0, 1.5, 4.0)
    np.testing.assert_array_equal(
        segmenter.predict_probability(volume.array, spacing, orientation="RAS"),
        segmenter.predict_probability(volume.array, spacing, np.diag([*spacing, 1])),
    )


def test_grey_scale_and_dtype_do_not_matter(segmenter, volume):
    plain = segmenter.predict_probability(volume.array, volume.spacing, orientation="RAS")
    for scaled in (volume.array.astype(np.float64) * 0.25 + 3, volume.array.astype(np.int64) * 2):
        found = segmenter.predict_probability(scaled, volume.spacing, orientation="RAS")
        np.testing.assert_allclose(found, plain, atol=1e-4)


def test_slices_do_not_influence_each_other_beyond_the_grey_range(segmenter, volume):
    """11 slices in batches of 2 (2 devices): any split into batches gives the same."""
    assert segmenter.config.predict.batch_size == 2
    all_at_once = segmenter.predict_probability(volume.array, volume.spacing, orientation="RAS")
    config = segmenter.config.copy_and_resolve_references()
    with config.unlocked():
        config.predict.batch_size = 11
    other = type(segmenter)(
        config, segmenter.model, segmenter.encoder, segmenter.head_params, segmenter.step
    )
    found = other.predict_probability(volume.array, volume.spacing, orientation="RAS")
    np.testing.assert_allclose(found, all_at_once, atol=1e-5)


def test_one_compilation_for_all_volumes_of_a_bucket(segmenter, volume):
    segmenter.predict_probability(volume.array, volume.spacing, orientation="RAS")
    functions = (encoder(segmenter.model.encoder.form), decoder(segmenter.model.head.decoder.dtype))
    before = [len(function.programs) for function in functions]
    for shape in ((47, 43, 3), (50, 31, 11), (64, 64, 17)):
        array = np.resize(volume.array, shape).astype(volume.array.dtype)
        assert segmenter.predict_volume(array, (1, 1, 3), orientation="RAS").shape == shape
    assert [len(function.programs) for function in functions] == before


@pytest.mark.parametrize("shown", [range(9, 21), range(14, 16), range(0)])
def test_slices_far_from_the_atrium_are_not_computed(segmenter, volume, monkeypatch, shown):
    """40 slices of which a few show something: all of those, and few or all of the others."""
    array = np.resize(volume.array, (47, 43, 40)).astype(volume.array.dtype)
    array = -(array % 7)  # grey values, none of them bright
    array[20:30, 20:30, list(shown)] = 7
    computed = []

    def bright(model, encoder, head, slices, *_):
        slices = np.asarray(slices)
        computed.append(slices)
        return jax.numpy.asarray(slices > 0, jax.numpy.float32)

    monkeypatch.setattr(segmenter_module, "slice_probability", bright)
    config = segmenter.config.copy_and_resolve_references()
    batches = {}
    for stride in (1, 4):
        config.predict.stride, computed[:] = stride, []
        other = dataclasses.replace(segmenter, config=config)
        mask = other.predict_volume(array, (5, 5, 3), orientation="RAS")
        np.testing.assert_array_equal(mask, array > 0)
        batches[stride] = len(computed)
    # 90 mL are enough; with 15 mL, or nothing at all, everything is looked at.
    assert (batches[4] < 0.8 * batches[1]) == (len(shown) == 12)
    computed[:] = []
    two = PostProcessing(components=2)
    assert other.predict_volume(array, (5, 5, 3), post=two, orientation="RAS").any() == bool(shown)
    assert len(computed) == batches[1]  # two components: no slice is left out


@pytest.mark.parametrize("codes", ["LPS", "SRA"])
def test_smoothing_is_scipys_across_all_slices(segmenter, volume, codes):
    """In mm along the through-plane axis, for probability and mask, with slices left out or not."""
    image = nibabel.Nifti1Image(volume.array, volume.affine)
    start = nibabel.io_orientation(volume.affine)
    wanted = nibabel.orientations.axcodes2ornt(codes)
    image = image.as_reoriented(nibabel.orientations.ornt_transform(start, wanted))
    place = np.asarray(image.dataobj), image.header.get_zooms(), image.affine
    axis = codes.index("S")
    plain = segmenter.predict_probability(*place)
    expected = gaussian_filter1d(plain.astype(float), 4.0 / 5.0, axis, mode="nearest")
    threshold = float(np.quantile(expected, 0.9)) + 1e-5  # whatever six steps of training gave
    config = segmenter.config.copy_and_resolve_references()
    with config.unlocked():
        config.predict.update(smooth_mm=4.0, stride=4, threshold=threshold)
    smoothing = dataclasses.replace(segmenter, config=config)
    np.testing.assert_allclose(smoothing.predict_probability(*place), expected, atol=1e-6)
    safe = np.abs(expected - threshold) > 1e-6
    everything = smoothing.predict_volume(*place, post=every(smoothing))
    assert everything.dtype == np.uint8
    np.testing.assert_array_equal(everything[safe], (expected >= threshold)[safe])
    np.testing.assert_array_equal(
        smoothing.predict_volume(*place), clean_mask(everything, place[1], 1)
    )
    assert (everything != (plain >= threshold)).any()


def test_a_call_may_ask_for_other_postprocessing_than_the_runs(segmenter, volume):
    place = volume.array, volume.spacing, volume.affine
    plain = segmenter.predict_probability(*place)
    config = segmenter.config.copy_and_resolve_references()
    with config.unlocked():
        config.predict.update(smooth_mm=4.0, threshold=0.9)
    smoothing = dataclasses.replace(segmenter, config=config)
    np.testing.assert_array_equal(smoothing.predict_probability(*place, smooth_mm=0), plain)
    found = segmenter.predict_probability(*place, smooth_mm=4.0)
    np.testing.assert_array_equal(found, smoothing.predict_probability(*place))
    assert (found != plain).any()
    largest = clean_mask((plain >= 0.5).astype(np.uint8), volume.spacing, 1)
    np.testing.assert_array_equal(smoothing.predict_volume(*place, post=DEFAULT), largest)
    mm3 = largest.sum() * np.prod(volume.spacing)
    for least, voxels in ((mm3, largest.sum()), (mm3 + 1, 0)):
        post = PostProcessing(min_mm3=least)
        assert segmenter.predict_volume(*place, post=post).sum() == voxels


@pytest.mark.parametrize(
    ("array", "spacing", "found"),
    [
        (np.zeros((4, 5), np.uint8), (1, 1, 1), "(4, 5)"),
        (np.zeros((4, 5, 6, 2), np.uint8), (1, 1, 1), "(4, 5, 6, 2)"),
        (np.full((4, 5, 6), np.nan, np.float32), (1, 1, 1), "NaN"),
        (np.zeros((4, 5, 6), np.uint8), (1, 0, 1), "spacing"),
        (np.zeros((4, 5, 6), np.complex64), (1, 1, 1), "complex64"),
        (np.zeros((4, 5, 6), [("r", "u1"), ("g", "u1")]), (1, 1, 1), "expected one real number"),
        (np.zeros((4, 5, 6), bool), (1, 1, 1), "bool"),
    ],
)
def test_refuses_what_is_no_volume(segmenter, array, spacing, found):
    with pytest.raises(ValueError, match=r".") as error:
        segmenter.predict_volume(array, spacing, orientation="RAS")
    assert found in str(error.value)


def test_refuses_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        lagseg_jax.load_segmenter(tmp_path)


def test_a_path_an_image_and_an_array_with_its_affine_give_one_mask(segmenter, volume):
    """In any byte order; an array alone is refused, as its axes may run anywhere."""
    expected = segmenter.predict_volume(volume.array, affine=volume.affine)
    assert expected.any()
    image = nibabel.load(volume.path)
    swapped = volume.array.astype(volume.array.dtype.newbyteorder(">"))
    start = nibabel.io_orientation(volume.affine)
    letters = "".join(nibabel.orientations.ornt2axcodes(start))
    for given, how in (
        (volume.path, {}),
        (str(volume.path), {}),
        (image, {}),
        (volume, {}),
        (swapped, {"affine": volume.affine}),
        (volume.array.astype(np.int64), {"affine": volume.affine}),
        (volume.array, {"spacing": volume.spacing, "orientation": letters}),
    ):
        np.testing.assert_array_equal(segmenter.predict_volume(given, **how), expected)
    for how in ({}, {"spacing": volume.spacing}):
        with pytest.raises(ValueError, match="does not say which way its axes grow"):
            segmenter.predict_volume(volume.array, **how)
    silent = nibabel.Nifti1Image(volume.array, None)
    with pytest.raises(ValueError, match="orientation is not known"):
        segmenter.predict_volume(silent)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_mask_of_a_probability_is_that_of_the_volume(segmenter, volume, stride):
    """Slices that the search leaves out do not count, whatever their probability is."""
    array = np.resize(volume.array, (47, 43, 40)).astype(volume.array.dtype)
    config = segmenter.config.copy_and_resolve_references()
    config.predict.stride = stride
    other = dataclasses.replace(segmenter, config=config)
    probability = other.predict_probability(array, affine=volume.affine)
    for threshold in np.quantile(probability, (0.5, 0.9, 0.999, 0.9999)):
        post = PostProcessing(threshold=float(threshold))
        found = other.mask_of(probability, volume.affine, post)
        mask = other.predict_volume(array, affine=volume.affine, post=post)
        np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize(("backend", "stride"), [("cpu", [4]), ("gpu", []), ("tpu", [])])
def test_the_search_is_for_cpus_alone(segmenter, volume, monkeypatch, backend, stride):
    """Elsewhere all slices at once are faster; a config may ask for another stride."""
    strides = []
    monkeypatch.setattr(segmenter_module, "search", lambda *how: strides.append(how[2]))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    probability = np.ones(volume.array.shape, np.float32)
    segmenter.mask_of(probability, volume.affine, DEFAULT)
    assert strides == stride
    config = segmenter.config.copy_and_resolve_references()
    config.predict.stride = 3
    dataclasses.replace(segmenter, config=config).mask_of(probability, volume.affine, DEFAULT)
    assert strides == [*stride, 3]


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")]
)
def test_what_runs_out_of_memory_all_the_same_is_refused(segmenter, volume, monkeypatch, error):
    def exhausted(*_):
        raise error

    monkeypatch.setattr("lagseg_jax.inference.segmenter.slice_probability", exhausted)
    with pytest.raises(ValueError, match=r"slices of 4\d x 4\d pixels, .* more memory"):
        segmenter.predict_volume(volume)


def test_memory_counts_a_probability_where_one_is_kept(segmenter, volume, monkeypatch):
    kept = []
    monkeypatch.setattr(segmenter_module, "check_memory", lambda *told: kept.append(told[-1]))
    segmenter.predict_volume(volume)
    segmenter.predict_probability(volume)
    smooth = dataclasses.replace(segmenter.postprocessing, smooth_mm=1.0)
    segmenter.predict_volume(volume, post=smooth)
    assert kept == [False, True, True]


def test_what_a_device_says_of_its_memory(monkeypatch):
    stats = [{"bytes_limit": 9, "bytes_in_use": 2}, None, {"bytes_limit": 8}, {"num_allocs": 3}]
    devices = [SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory.device_bytes() == 7
    monkeypatch.setattr(jax, "local_devices", lambda: devices[1:2])
    assert memory.device_bytes() is None


def test_a_volume_that_needs_more_memory_than_there_is_is_refused(segmenter, volume, monkeypatch):
    monkeypatch.setattr("lagseg_jax.inference.memory.available_bytes", lambda: 10**5)
    with pytest.raises(ValueError, match=r"slices of 4\d x 4\d pixels"):
        segmenter.predict_volume(volume)
