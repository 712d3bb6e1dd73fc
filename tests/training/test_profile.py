"""A profile: of the steps asked for, by one process, and never the end of a training."""

import errno

import jax
import jax.numpy as jnp
import pytest

from lagseg_jax.runtime import processes
from lagseg_jax.training.profile import Profiler
from lagseg_jax.training.step import StepOutcome


@pytest.fixture
def traces(monkeypatch):
    """Folders of the traces that were begun, and None for each one that was ended."""
    found = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder, **_: found.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: found.append(None))
    return found


def run(profiler, steps):
    for step in steps:
        with profiler.step(step):
            outcome = StepOutcome(skipped=jnp.array(False))
        profiler.end(step, outcome)


@pytest.mark.parametrize(
    ("asked", "steps", "traced"),
    [
        ((3, 5), range(1, 9), True),
        ((3, 5), range(4, 9), True),  # continued in the middle
        ((3, 5), range(6, 9), False),
        ((3, 3), range(1, 9), True),
        ((), range(1, 9), False),
    ],
)
def test_one_trace_of_the_steps_that_are_still_to_come(tmp_path, traces, asked, steps, traced):
    profiler = Profiler(tmp_path, asked)
    run(profiler, steps)
    profiler.close()
    assert traces == ([tmp_path, None] if traced else [])


def test_a_training_that_ends_before_leaves_what_there_is(tmp_path, traces):
    profiler = Profiler(tmp_path, (2, 90))
    run(profiler, range(1, 5))
    assert traces == [tmp_path]
    profiler.close()
    assert traces == [tmp_path, None]


def test_only_the_first_process_traces(tmp_path, traces, monkeypatch):
    monkeypatch.setattr(processes, "_here", (1, 2))
    run(Profiler(tmp_path, (1, 2)), range(1, 5))
    assert not traces


def test_a_trace_that_cannot_be_written_is_said_and_ends_nothing(
    tmp_path, traces, monkeypatch, caplog
):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jax.profiler, "stop_trace", full)
    run(Profiler(tmp_path, (1, 2)), range(1, 5))
    assert f"no profile can be written to {tmp_path}" in caplog.text
    assert traces == [tmp_path]  # and it is not tried again
