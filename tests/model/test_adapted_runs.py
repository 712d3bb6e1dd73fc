"""Whole runs in which an adapter is trained."""

import functools
import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_run
from adapters import merged_by_hand, training_form
from killed import killed_after
from lagseg_jax import load_segmenter, main
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.inference.export import flat_weights
from network import probability
from run_files import assert_same_run, raw_checkpoint, rows_of
from steps import SIZE


def run_config(phantom):
    config = tiny_run.config(phantom, encoder_learning_rate=3e-2)
    config.train.warmup_steps = 0
    config.encoder.lora_rank, config.encoder.lora_blocks = 2, 3
    return config


@pytest.fixture(scope="module")
def run(phantom, tmp_path_factory):
    """Workdir of a finished run with an adapter; not to be changed."""
    workdir = tmp_path_factory.mktemp("adapted") / "run"
    main.run(run_config(phantom), workdir, "train")
    return workdir


def test_results_say_that_the_encoder_was_adapted(run, finished_run):
    words = "LoRA of rank 2 on the qkv kernels of the last 3 of 4 blocks"
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    manifest = json.loads((run / "evaluation" / "manifest.json").read_text())
    frozen = json.loads((finished_run / "evaluation" / "summary.json").read_text())["encoder"]
    for encoder in (summary["encoder"], manifest["encoder"], rows_of(run)[0]["encoder"]):
        # The hash is that of the weights at the start, and the warning stays.
        assert encoder == frozen | {"adapted": words}
        assert "random weights" in encoder["warning"]
    page = (run / "evaluation" / "report.html").read_text()
    assert page.count(f"adapted: {words}") == 2 and "frozen" not in page.lower()
    assert "adapted:" not in (finished_run / "evaluation" / "report.html").read_text()


def test_a_loaded_run_predicts_what_training_computes(run, finished_run, phantom):
    segmenter = load_segmenter(run)
    saved = raw_checkpoint(run, segmenter.step)["params"]
    assert set(saved) == {"fusion", "decoder", "lora"} and np.abs(saved["lora"]["b"]).max() > 0.01
    assert set(segmenter.head_params) == {"fusion", "decoder"}
    for leaf in jax.tree.leaves(segmenter.encoder.params):
        assert leaf.sharding.is_fully_replicated
        assert leaf.sharding.device_set == set(jax.local_devices())
    model = segmenter.model
    images = jnp.asarray(np.random.default_rng(0).random((2, SIZE, SIZE)), jnp.float32)
    base = load_segmenter(finished_run).encoder.params  # the same random weights
    logits = jax.jit(functools.partial(training_form, model))(base, saved, images)
    expected = jax.nn.sigmoid(logits)
    found = probability(model, segmenter.encoder.params, segmenter.head_params, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    without = probability(model, base, segmenter.head_params, images)
    assert np.abs(without - expected).max() > 1e-3
    # An exported file holds what is used.
    kernel = flat_weights(segmenter)["encoder/blocks/qkv/kernel"]
    np.testing.assert_allclose(kernel, merged_by_hand(base, saved["lora"]), rtol=1e-6, atol=1e-8)


def test_an_ensemble_of_a_frozen_and_an_adapted_encoder(run, finished_run, phantom):
    case = phantom / "task2" / "train_data" / "train_1" / "enhanced.nii.gz"
    volume = read_volume(case)
    place = volume.array[:, :, 2:7], volume.spacing, volume.affine
    members = [load_segmenter(folder) for folder in (finished_run, run)]
    expected = np.mean([member.predict_probability(*place) for member in members], axis=0)
    both = load_segmenter([finished_run, run])
    np.testing.assert_allclose(both.predict_probability(*place), expected, atol=1e-6)
    reports = [member.encoder.report() for member in (both, *both.partners)]
    assert ["adapted" in report for report in reports] == [False, True]


def test_resume_equals_no_interruption_bit_for_bit(run, phantom, tmp_path):
    """Killed after step 3, between two checkpoints, and started again."""
    with killed_after(3):
        main.run(run_config(phantom), tmp_path / "run", "train")
    main.run(run_config(phantom), tmp_path / "run", "train")
    assert_same_run(tmp_path / "run", run)


def test_a_frozen_run_is_continued_and_not_to_be_adapted(finished_run, phantom, tmp_path, caplog):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    segmenter = load_segmenter(workdir)
    assert segmenter.model.adapter is None and not segmenter.encoder.adapted
    with pytest.raises(ValueError, match=r"config\.encoder\.lora_rank is 2.*trained with 0"):
        main.run(run_config(phantom), workdir, "train")
    with caplog.at_level(logging.INFO, "lagseg_jax"):
        tiny_run.run(workdir, phantom, epochs=(tiny_run.STEPS + 2) / 8)
    assert f"continuing from step {tiny_run.STEPS}" in caplog.text
    assert "adapted" not in caplog.text
