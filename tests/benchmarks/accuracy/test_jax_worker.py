"""benchmarks.accuracy: our arms are ordinary runs of as many steps as their time allows."""

import json

import pytest

from benchmarks.accuracy import jax_worker
from benchmarks.accuracy.arms import arguments_of, configure
from lagseg_jax.reports.study_table import read_result


def test_our_arms_are_ordinary_runs_with_affordable_steps(options_for, tmp_path, monkeypatch):
    """Of the trials only the longer one is trained, with as many steps as the run: one compiler."""
    monkeypatch.setattr(jax_worker, "SHORT", (1, 4))
    trained, affordable = [], []

    def train_run(config, *rest):
        if config.train.steps == 4:
            trained.append(rest[0])
            train(config, *rest)

    def four_steps(*arguments):
        affordable.append(affordable_steps(*arguments))
        return 4

    train, affordable_steps = jax_worker.train_run, jax_worker.affordable_steps
    monkeypatch.setattr(jax_worker, "train_run", train_run)
    monkeypatch.setattr(jax_worker, "affordable_steps", four_steps)
    options = options_for(tmp_path, "--set=train.learning_rate=0.002")
    arguments = arguments_of(options, {"seed": 3, "train.loss": "dice"})
    facts = jax_worker.train(arguments, str(tmp_path / "run"), minutes=0.01, clock="wall")
    assert affordable[0] >= 1 and facts["steps"] == 4 and "random" in facts["warning"]
    assert len(trained) == 2 and trained[1] == tmp_path / "run"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["seed"] == 3 and config["train"]["loss"] == "dice"
    assert config["train"]["learning_rate"] == 0.002 and config["train"]["steps"] == 4
    split = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert [len(split[part]) for part in ("train", "validation", "test")] == [3, 1, 2]
    result = read_result(tmp_path / "run", "x", -1, 3)
    assert set(result.cases) == set(split["test"])


def test_steps_that_are_known_are_not_measured(options_for, tmp_path, monkeypatch):
    monkeypatch.setattr(jax_worker, "affordable_steps", lambda *_: pytest.fail("measured"))
    arguments = arguments_of(options_for(tmp_path), {})
    folder = str(tmp_path / "run")
    assert jax_worker.train(arguments, folder, minutes=0.01, clock="wall", steps=2)["steps"] == 2


def test_affordable_steps_by_hand(options_for, tmp_path, monkeypatch):
    """A start of 10 s and steps of 2 s: 100 s are enough for 45; 5000 s need a longer trial."""
    clock, trials = [0.0], []

    def run(config, workdir, split, encoder, programs):
        clock[0] += 10 + 2 * config.train.steps
        trials.append(config.train.steps)

    monkeypatch.setattr(jax_worker, "train_run", run)
    monkeypatch.setattr(jax_worker, "begin_compiling", lambda config: None)
    config = configure(options_for(tmp_path), {})
    assert jax_worker.affordable_steps(config, {}, None, 100, lambda: clock[0]) == 45
    assert jax_worker.affordable_steps(config, {}, None, 5, lambda: clock[0]) == 1
    trials.clear()
    assert jax_worker.affordable_steps(config, {}, None, 5000, lambda: clock[0]) == 2495
    assert trials == [1, 4, 44, 124]
