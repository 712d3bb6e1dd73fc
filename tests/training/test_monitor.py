"""What the host makes of the outcome of each step: a stop for all, and the names of bad cases."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest

from lagseg_jax.runtime.errors import TrainingError
from lagseg_jax.training.metrics import TrainMetrics
from lagseg_jax.training.monitor import Meter, Watch
from lagseg_jax.training.step import StepOutcome

CASES = ["train_1", "train_2", "train_3"]


def outcome(skipped=False):
    return StepOutcome(skipped=jnp.array(skipped))


def test_a_step_is_looked_at_when_the_next_one_is_under_way(caplog):
    caplog.set_level(logging.WARNING, "lagseg_jax.training.monitor")
    watch, warned = Watch(CASES, 3), []
    for step, skipped in enumerate([False, True, False, False], start=1):
        watch.add(step, np.array([0]), outcome(skipped))
        warned.append(len(caplog.records))
    assert warned == [0, 0, 1, 1]


def test_a_state_is_sound_unless_its_last_step_was_skipped():
    watch, sound = Watch(CASES, 3), []
    for step, skipped in enumerate([False, True, True, False], start=1):
        watch.add(step, np.array([0]), outcome(skipped))
        sound += [watch.settle(), watch.settle()]
    assert sound == [True, True, False, False, False, False, True, True]


def test_so_many_skipped_steps_in_a_row_end_the_training_and_name_the_cases(caplog):
    caplog.set_level(logging.WARNING, "lagseg_jax.training.monitor")
    watch = Watch(CASES, 2)
    for step, skipped, cases in (
        (1, True, [2]),
        (2, False, [2]),
        (3, True, [0, 0]),
        (4, True, [1]),
    ):
        watch.add(step, np.array(cases), outcome(skipped))
    assert ["train_3" in r.getMessage() for r in caplog.records] == [True, False]
    with pytest.raises(TrainingError, match=r"2 steps in a row, up to step 4.*train_1, train_2:"):
        watch.settle()


def test_rows_count_the_skipped_steps_and_leave_them_out_of_the_means():
    meter = Meter(lambda step: step / 8, batch_size=4, step=0)
    for loss, skipped in ((1.0, False), (np.nan, True), (3.0, False)):
        metrics = TrainMetrics.single_from_model_output(
            loss=jnp.array([loss]),
            gradient_norm=jnp.array([loss]),
            mask=jnp.array([not skipped]),
            counts=jnp.zeros((1, 3)) if skipped else jnp.array([[1.0, 2, 2]]),
        )
        meter.add(metrics, outcome(skipped))
    row = meter.read(3)
    assert (row["loss"], row["gradient_norm"], row["dice"]) == (2.0, 2.0, 0.5)
    assert row["skipped_steps"] == 1 and row["learning_rate"] == 2 / 8
    meter.add(metrics, outcome())
    assert meter.read(4)["skipped_steps"] == 0
