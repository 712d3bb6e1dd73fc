"""A whole run: what it writes, exact resumption, early stopping, evaluation again."""

import csv
import itertools
import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import tiny_run
from lagseg_jax.batches import TrainingBatches
from lagseg_jax.checkpoint import Checkpoints


def raw_checkpoint(workdir, step):
    """All arrays of a checkpoint, read by Orbax alone."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        return checkpointer.restore(workdir / "checkpoints" / str(step) / "state")


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


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


def test_resume_equals_no_interruption_bit_for_bit(finished_run, phantom, tmp_path, monkeypatch):
    """Killed after step 3, between two checkpoints, and started again with the same command."""
    workdir = tmp_path / "resumed"
    following, count = TrainingBatches.__next__, itertools.count(1)

    class Killed(Exception):
        pass

    def next_or_killed(batches):
        if next(count) == 4:
            raise Killed
        return following(batches)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(TrainingBatches, "__next__", next_or_killed)
        tiny_run.run(workdir, phantom)
    with Checkpoints(workdir, encoder_hash="") as checkpoints:
        assert checkpoints.newest() == 2
    tiny_run.run(workdir, phantom)
    straight, resumed = (raw_checkpoint(w, tiny_run.STEPS) for w in (finished_run, workdir))
    jax.tree.map(np.testing.assert_array_equal, straight, resumed)
    timing = {"slices_per_second"}
    for a, b in zip(rows_of(finished_run), rows_of(workdir), strict=True):
        assert {k: v for k, v in a.items() if k not in timing} == {
            k: v for k, v in b.items() if k not in timing
        }


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
