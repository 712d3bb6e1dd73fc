"""Segmenter: mirrored volumes, ensembles, and which weights their members load."""

import dataclasses

import jax
import numpy as np
import pytest

import lagseg_jax
from configs import default
from lagseg_jax.inference import load_segmenter as loading
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.inference.slice_probability import average_probability
from lagseg_jax.runtime.errors import InputError
from segmenters import every


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


def test_a_member_of_another_plane_is_refused_whatever_the_first_one_cuts(segmenter, volume):
    first = dataclasses.replace(segmenter, plane="axial", planes=("axial",))
    partner = dataclasses.replace(segmenter, plane="coronal", planes=("coronal",))
    first.cut(volume.array, volume.affine)
    ensemble = dataclasses.replace(first, partners=(partner,))
    with pytest.raises(InputError, match=r"axial slices .* expected coronal ones"):
        ensemble.cut(volume.array, volume.affine)
    assert ensemble.in_any_plane().cut(volume.array, volume.affine).geometry.plane == "axial"
    told = ensemble.in_any_plane("sagittal")
    assert told.cut(volume.array, volume.affine).geometry.plane == "sagittal"


def test_a_probability_that_equals_the_threshold_is_atrium():
    probability = jax.numpy.array([0.25, 0.5, 0.75])
    assert average_probability([probability], 0.5).tolist() == [0, 1, 1]
    assert average_probability([probability, probability + 0.25], 0.625).tolist() == [0, 1, 1]


def test_an_encoder_is_loaded_once_for_all_members(finished_run, monkeypatch):
    loads, kept = [], []
    real = loading.load_frozen_encoder
    monkeypatch.setattr(loading, "use_compilation_cache", lambda: kept.append(True))
    monkeypatch.setattr(loading, "load_frozen_encoder", lambda c: loads.append(c) or real(c))
    ensemble = lagseg_jax.load_segmenter([finished_run, finished_run])
    (partner,) = ensemble.partners
    assert len(loads) == 1 and partner.encoder is ensemble.encoder
    assert kept  # what is compiled for it, the next start need not compile


def test_encoders_are_the_same_only_in_equal_weights_and_precision(monkeypatch):
    """Runs of an ensemble share an encoder where nothing of this differs."""
    card = {"encoder_sha256": "a"}  # of tensors and interpolation rule
    monkeypatch.setattr(loading, "read_card", lambda folder, expected: cards[folder])
    cards = {"one": card, "moved": dict(card), "weights": {"encoder_sha256": "b"}}

    def identity(**fields):
        encoder = default.get_config().encoder
        encoder.update({"weights": "one", "dtype": "float32"} | fields)
        return loading._encoder_identity(encoder)

    assert identity() == identity(weights="moved")
    others = [{"dtype": "bfloat16"}, {"weights": "weights"}]
    others += [{"variant": "small"}, {"lora_rank": 3}, {"weights": ""}]
    assert identity() not in [identity(**other) for other in others]


def test_weights_that_moved_are_those_that_are_loaded(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(loading, "read_config", lambda _: default.get_config())
    monkeypatch.setattr(loading, "_encoder_identity", lambda encoder: encoder.weights)
    monkeypatch.setattr(loading, "load_frozen_encoder", lambda c: loaded.append(c.encoder.weights))
    monkeypatch.setattr(loading, "restore_segmenter", lambda *_: Segmenter(*[None] * 4, step=1))
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
    monkeypatch.setattr(loading, "read_planes", lambda _: ())
    restore = loading.restore_segmenter
    found = [restore(segmenter.config, tmp_path, segmenter.encoder).step for _ in range(2)]
    assert found == steps == [2, 5]
