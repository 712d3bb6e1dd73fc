"""A whole run: what it writes, exact resumption after any end, early stopping, evaluation again."""

import csv
import errno
import gzip
import itertools
import json
import logging
import os
import shutil
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import tiny_run
from killed import killed_after
from lagseg_jax.data.batches import TrainingBatches
from lagseg_jax.runs.checkpoint import Checkpoints
from lagseg_jax.runtime.errors import Interrupted, TrainingError
from lagseg_jax.runtime.signals import handled
from lagseg_jax.training import validation
from run_files import assert_same_run, raw_checkpoint, rows_of, saved_steps


def test_writes_what_the_readme_says(finished_run):
    summary = json.loads((finished_run / "evaluation" / "summary.json").read_text())
    assert summary["n_cases"] == 2
    assert "random weights" in summary["encoder"]["warning"]
    assert summary["dice_iou_check"]["volume"]["consistent"]
    with (finished_run / "evaluation" / "per_case.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2 and all(r["encoder_weights"] == "random (seed 0)" for r in table)
    dice = np.mean([float(r["dice"]) for r in table])
    np.testing.assert_allclose(dice, summary["dice"]["mean"], rtol=1e-9)
    assert {p.name.split("_")[0] for p in (finished_run / "evaluation/overlays").iterdir()} == {
        "best",
        "worst",
    }
    assert len(list((finished_run / "evaluation" / "masks").glob("*.nii.gz"))) == 2
    assert list((finished_run / "tensorboard").iterdir())
    steps = [row["step"] for row in rows_of(finished_run)[1:]]
    assert steps == list(range(1, tiny_run.STEPS + 1))
    assert "random weights" in rows_of(finished_run)[0]["encoder"]["warning"]


def test_no_checkpoint_holds_the_encoder(finished_run):
    state = raw_checkpoint(finished_run, tiny_run.STEPS)
    assert set(state["params"]) == {"fusion", "decoder"}
    sizes = {leaf.shape for leaf in jax.tree.leaves(state) if hasattr(leaf, "shape")}
    assert (37, 37, 64) not in sizes
    extra = json.loads(
        next((finished_run / "checkpoints" / str(tiny_run.STEPS)).glob("extra/*")).read_text()
    )
    assert len(extra["encoder_sha256"]) == 64
    assert extra["data"] == {"slices_consumed": 4 * tiny_run.STEPS}


def test_resume_equals_no_interruption_bit_for_bit(finished_run, phantom, tmp_path):
    """Killed after step 3, between two checkpoints, and started again with the same command."""
    workdir = tmp_path / "resumed"
    with killed_after(3):
        tiny_run.run(workdir, phantom)
    with Checkpoints(workdir, encoder_hash="") as checkpoints:
        assert checkpoints.newest() == 2
    tiny_run.run(workdir, phantom)
    assert_same_run(workdir, finished_run)


@pytest.mark.parametrize("where", ["step", "validation"])
def test_a_signal_loses_no_step(finished_run, phantom, tmp_path, monkeypatch, where):
    """During step 3, or in the validation after step 4, which is then made up for."""
    workdir, count, sent = tmp_path / "stopped", itertools.count(1), []
    owner, name, call, saved = {
        "step": (TrainingBatches, "__next__", 3, 3),
        "validation": (validation, "evaluation_batches", 2, 4),
    }[where]
    original = getattr(owner, name)

    def signalled(*arguments):
        if next(count) == call:
            os.kill(os.getpid(), signal.SIGTERM)
            sent.append(time.monotonic())
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=f"step {saved}"):
        patch.setattr(owner, name, signalled)
        with handled(True):
            tiny_run.run(workdir, phantom)
    assert time.monotonic() - sent[0] < 10
    with Checkpoints(workdir, encoder_hash="") as checkpoints:
        assert checkpoints.newest() == saved
    tiny_run.run(workdir, phantom)
    assert_same_run(workdir, finished_run)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("failed_futures")
def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(
    finished_run, phantom, tmp_path, caplog
):
    workdir = tmp_path / "damaged"
    shutil.copytree(finished_run, workdir)
    manifest = workdir / "checkpoints" / "6" / "state" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:50])
    caplog.set_level(logging.WARNING, "lagseg_jax")
    tiny_run.run(workdir, phantom)
    assert f"{workdir}/checkpoints/6 is damaged" in caplog.text
    assert f"continues from checkpoint {workdir}/checkpoints/4" in caplog.text
    assert_same_run(workdir, finished_run)


def test_steps_that_are_not_finite(phantom, tmp_path, monkeypatch, caplog):
    """One is skipped; two in a row end the training, which names their cases."""
    workdir, following, count = tmp_path / "nan", TrainingBatches.__next__, itertools.count(1)

    def next_with_nan(batches):
        batch = following(batches)
        if next(count) in (2, 4, 5):
            batch["image"] = np.full_like(batch["image"], np.nan)
            cases.update(batch["case"].tolist())
        return batch

    cases = set()
    monkeypatch.setattr(TrainingBatches, "__next__", next_with_nan)
    caplog.set_level(logging.WARNING, "lagseg_jax.training.monitor")
    expected = r"2 steps in a row, up to step 5, .*train_\d.*from before step 4"
    with pytest.raises(TrainingError, match=expected):
        tiny_run.run(workdir, phantom, max_skipped=2)
    rows = rows_of(workdir)[1:]
    assert [row["skipped_steps"] for row in rows[:4]] == [0, 1, 0, 1]
    assert rows[1]["loss"] is None and rows[2]["loss"] > 0
    assert [n for n in (2, 4, 5) if f"step {n} changed nothing" in caplog.text] == [2, 4, 5]
    # Validation and checkpoint of step 2 waited for one that was made; those of step 4 never come.
    assert ["validation_dice" in row for row in rows[:4]] == [False, False, True, False]
    assert saved_steps(workdir) == [3]
    assert int(raw_checkpoint(workdir, 3)["step"]) == 3
    # From there the same command continues.
    monkeypatch.undo()
    tiny_run.run(workdir, phantom, max_skipped=2)
    assert saved_steps(workdir)[-1] == tiny_run.STEPS


@pytest.mark.parametrize("finite", [True, False])
def test_a_skipped_last_step_is_saved_if_its_validation_is_finite(
    phantom, tmp_path, monkeypatch, finite
):
    """Nothing comes after it that a checkpoint could wait for."""
    last, following, count = tiny_run.STEPS, TrainingBatches.__next__, itertools.count(1)

    def nan_in(batch):
        return batch | {"image": np.full_like(batch["image"], np.nan)}

    def last_is_nan(batches):
        batch = following(batches)
        return nan_in(batch) if next(count) == last else batch

    validate, validations = validation.evaluation_batches, itertools.count(1)

    def last_may_be_nan(*arguments):
        broken = not finite and next(validations) == last // 2
        return (nan_in(batch) if broken else batch for batch in validate(*arguments))

    monkeypatch.setattr(TrainingBatches, "__next__", last_is_nan)
    monkeypatch.setattr(validation, "evaluation_batches", last_may_be_nan)
    tiny_run.run(tmp_path / "run", phantom)
    assert saved_steps(tmp_path / "run")[-1] == (last if finite else last - 2)
    assert "validation_dice" in rows_of(tmp_path / "run")[-1]


def test_a_profile_names_its_steps(phantom, tmp_path):
    """A trace that Perfetto and TensorBoard open, of the steps asked for and no others."""
    workdir = tmp_path / "profiled"
    tiny_run.run(workdir, phantom, profile_steps=(3, 4))
    (trace,) = (workdir / "profile").rglob("perfetto_trace.json.gz")
    with gzip.open(trace, "rt") as file:
        events = json.load(file)["traceEvents"]
    steps = {event["args"]["step_num"] for event in events if "step_num" in event.get("args", {})}
    assert steps == {"3", "4"}
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    tiny_run.run(workdir, phantom, profile_steps=(3, 4))  # those steps are done
    assert len(list((workdir / "profile").rglob("*.xplane.pb"))) == 1


def test_a_full_disk_does_not_end_the_training(phantom, tmp_path, monkeypatch):
    workdir, save = tmp_path / "full", ocp.CheckpointManager.save

    def save_or_fail(manager, step, **options):
        if step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(manager, step, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "save", save_or_fail)
    with pytest.raises(TrainingError, match="steps 4 could not be saved"):
        tiny_run.run(workdir, phantom)
    with Checkpoints(workdir, encoder_hash="") as checkpoints:
        assert checkpoints.newest() == tiny_run.STEPS
    assert (workdir / "evaluation" / "summary.json").is_file()


def test_evaluation_alone_repeats_the_numbers(finished_run, phantom, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished_run, workdir)
    shutil.rmtree(workdir / "evaluation")
    before = json.loads((finished_run / "evaluation" / "summary.json").read_text())
    assert tiny_run.run(workdir, phantom, mode="evaluate") == before


def test_stops_early_and_keeps_the_best(phantom, tmp_path):
    """A learning rate of almost 0 never beats its first validation."""
    workdir = tmp_path / "early"
    tiny_run.run(workdir, phantom, epochs=3.0, patience=2, learning_rate=1e-30)
    with Checkpoints(workdir, encoder_hash="") as checkpoints:
        newest, best = checkpoints.newest(), checkpoints.best()
    validations = [r["validation_dice"] for r in rows_of(workdir)[1:] if "validation_dice" in r]
    assert newest < 24 and len(validations) == newest // 2
    assert best[1] == max(validations)


def test_longer_training_continues(finished_run, phantom, tmp_path):
    workdir = tmp_path / "longer"
    shutil.copytree(finished_run, workdir)
    tiny_run.run(workdir, phantom, epochs=(tiny_run.STEPS + 2) / 8)
    assert [row["step"] for row in rows_of(workdir)[1:]] == list(range(1, tiny_run.STEPS + 3))
