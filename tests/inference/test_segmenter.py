"""predict_volume: geometry, batching, compilation, and the inputs it refuses."""

import dataclasses
from types import SimpleNamespace

import jax
import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

import lagseg_jax
from configs import default
from lagseg_jax.imaging.masks import clean_mask
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.inference import memory
from lagseg_jax.inference import segmenter as segmenter_module
from lagseg_jax.inference.postprocess import DEFAULT, PostProcessing
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.inference.slice_probability import average_probability, decoder, encoder


@pytest.fixture(scope="module")
def segmenter(finished_run):
    return lagseg_jax.load_segmenter(finished_run)


@pytest.fixture(scope="module")
def volume(phantom):
    return read_volume(phantom / "task2" / "train_data" / "train_1" / "enhanced.nii.gz")


def every(segmenter):
    """What the run says, but all components."""
    return dataclasses.replace(segmenter.postprocessing, components=0)


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
    for scaled in (
        volume.array.astype(np.float64) * 0.25 + 3,
        volume.array.astype(np.int64) * 2,
    ):
        found = segmenter.predict_probability(scaled, volume.spacing, orientation="RAS")
        np.testing.assert_allclose(found, plain, atol=1e-4)


def test_slices_do_not_influence_each_other_beyond_the_grey_range(segmenter, volume):
    """11 slices in batches of 4 (2 devices): any split into batches gives the same."""
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
    functions = (
        encoder(segmenter.model.encoder.form),
        decoder(segmenter.model.head.decoder.dtype),
    )
    before = [function._cache_size() for function in functions]
    for shape in ((47, 43, 3), (50, 31, 11), (64, 64, 17)):
        array = np.resize(volume.array, shape).astype(volume.array.dtype)
        assert segmenter.predict_volume(array, (1, 1, 3), orientation="RAS").shape == shape
    assert [function._cache_size() for function in functions] == before


@pytest.mark.parametrize("shown", [range(9, 21), range(14, 16), range(0)])
def test_slices_far_from_the_atrium_are_not_computed(segmenter, volume, monkeypatch, shown):
    """40 slices of which a few show something: all of those, and few or all of the others."""
    array = np.resize(volume.array, (47, 43, 40)).astype(volume.array.dtype)
    array *= 0
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
        mask = other.predict_volume(array, (1, 1, 3), orientation="RAS")
        np.testing.assert_array_equal(mask, array > 0)
        batches[stride] = len(computed)
    # Too thin to be sure, or nothing at all: then everything is looked at.
    assert (batches[4] < 0.8 * batches[1]) == (len(shown) == 12)
    computed[:] = []
    two = PostProcessing(components=2)
    assert other.predict_volume(array, (1, 1, 3), post=two, orientation="RAS").any() == bool(shown)
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


def test_mirroring_makes_the_answer_symmetric(segmenter, volume):
    """A mirrored patient gets the mirrored probability; without `tta` the network may differ."""
    array = volume.array[:, :, 2:7]
    affine = np.diag([*volume.spacing, 1])
    mirrored = {}
    for tta in (False, True):
        plain = segmenter.predict_probability(array, affine=affine, tta=tta)
        for axes in ((0,), (1,), (0, 1)):
            turned = segmenter.predict_probability(
                np.flip(array, axes), volume.spacing, tta=tta, orientation="RAS"
            )
            mirrored[tta, axes] = np.abs(np.flip(turned, axes) - plain).max()
    assert all(mirrored[True, axes] < 1e-5 < mirrored[False, axes] for _, axes in mirrored)


def test_mirroring_is_the_mean_of_four(segmenter, volume):
    array = volume.array[:, :, 2:7]
    parts = [
        np.flip(
            segmenter.predict_probability(np.flip(array, axes), volume.spacing, orientation="RAS"),
            axes,
        )
        for axes in ((), (0,), (1,), (0, 1))
    ]
    found = segmenter.predict_probability(array, volume.spacing, tta=True, orientation="RAS")
    np.testing.assert_allclose(found, np.mean(parts, 0), atol=1e-5)


def variation(segmenter, **changes):
    """Another model: other parameters, image size or threshold."""
    config = segmenter.config.copy_and_resolve_references()
    with config.unlocked():
        config.data.image_size = changes.pop("image_size", config.data.image_size)
        config.predict.threshold = changes.pop("threshold", config.predict.threshold)
    params = jax.tree.map(lambda x: x * changes.pop("scale", 1.3), segmenter.head_params)
    return dataclasses.replace(segmenter, config=config, head_params=params)


def test_ensemble_is_the_mean_and_the_threshold_is_the_first_ones(segmenter, volume):
    """Three models, one of another image size; every part of `predict` is the first one's."""
    place = volume.array[:, :, 2:7], volume.spacing, volume.affine
    others = variation(segmenter, image_size=56, threshold=0.9), variation(segmenter)
    first = variation(segmenter, threshold=0.4)
    ensemble = dataclasses.replace(first, partners=others)
    expected = np.mean([m.predict_probability(*place) for m in (first, *others)], axis=0)
    probability = ensemble.predict_probability(*place)
    np.testing.assert_allclose(probability, expected, atol=1e-6)
    assert np.abs(probability - first.predict_probability(*place)).max() > 1e-3
    mask = ensemble.predict_volume(*place, post=every(ensemble))
    np.testing.assert_array_equal(mask, probability >= 0.4)


def test_a_probability_that_equals_the_threshold_is_atrium():
    probability = jax.numpy.array([0.25, 0.5, 0.75])
    assert average_probability([probability], 0.5).tolist() == [0, 1, 1]
    assert average_probability([probability, probability + 0.25], 0.625).tolist() == [0, 1, 1]


def test_an_encoder_is_loaded_once_for_all_members(finished_run, monkeypatch):
    loads = []
    real = segmenter_module.load_frozen_encoder
    monkeypatch.setattr(
        segmenter_module, "load_frozen_encoder", lambda c: loads.append(c) or real(c)
    )
    ensemble = lagseg_jax.load_segmenter([finished_run, finished_run])
    (partner,) = ensemble.partners
    assert len(loads) == 1 and partner.encoder is ensemble.encoder


def test_encoders_are_the_same_only_in_equal_weights_and_precision(monkeypatch):
    """Runs of an ensemble share an encoder where nothing of this differs."""
    card = {"encoder_sha256": "a"}  # of tensors and interpolation rule
    monkeypatch.setattr(segmenter_module, "read_card", lambda folder, expected: cards[folder])
    cards = {"one": card, "moved": dict(card), "weights": {"encoder_sha256": "b"}}

    def identity(**fields):
        encoder = default.get_config().encoder
        encoder.update({"weights": "one", "dtype": "float32"} | fields)
        return segmenter_module._encoder_identity(encoder)

    assert identity() == identity(weights="moved")
    others = [{"dtype": "bfloat16"}, {"weights": "weights"}]
    others += [{"variant": "small"}, {"lora_rank": 3}, {"weights": ""}]
    assert identity() not in [identity(**other) for other in others]


def test_weights_that_moved_are_those_that_are_loaded(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(segmenter_module, "read_config", lambda _: default.get_config())
    monkeypatch.setattr(segmenter_module, "_encoder_identity", lambda encoder: encoder.weights)
    monkeypatch.setattr(
        segmenter_module, "load_frozen_encoder", lambda c: loaded.append(c.encoder.weights)
    )
    monkeypatch.setattr(
        segmenter_module, "restore_segmenter", lambda *_: Segmenter(*[None] * 4, step=1)
    )
    lagseg_jax.load_segmenter([tmp_path] * 2, ["moved", "too"])
    lagseg_jax.load_segmenter(tmp_path, "here")
    assert loaded == ["moved", "too", "here"]


def test_the_best_checkpoint_is_loaded_not_the_newest(monkeypatch, segmenter, tmp_path):
    """And the newest of a run that was not validated yet."""
    bests, steps = [(2, 0.7), None], []

    class Known:
        def __init__(self, *_, **__):
            best = bests.pop(0)
            self.best, self.newest = lambda: best, lambda: 5

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def restore_params(self, step, like):
            steps.append(step)
            return segmenter.head_params

    monkeypatch.setattr("lagseg_jax.runs.best_params.Checkpoints", Known)
    monkeypatch.setattr(segmenter_module, "read_planes", lambda _: ())
    restore = segmenter_module.restore_segmenter
    found = [restore(segmenter.config, tmp_path, segmenter.encoder).step for _ in range(2)]
    assert found == steps == [2, 5]


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


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")]
)
def test_what_runs_out_of_memory_all_the_same_is_refused(segmenter, volume, monkeypatch, error):
    def exhausted(*_):
        raise error

    monkeypatch.setattr("lagseg_jax.inference.segmenter.slice_probability", exhausted)
    with pytest.raises(ValueError, match=r"slices of 4\d x 4\d pixels, .* more memory"):
        segmenter.predict_volume(volume)


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
