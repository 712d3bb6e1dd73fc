"""Checkpoints: which are kept, what is refused, and what happens when files or saves break."""

import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lagseg_jax.runs.checkpoint import REMOVED, Checkpoints
from lagseg_jax.runtime.devices import replicated
from lagseg_jax.runtime.errors import InputError
from small_checkpoints import save_all, state_at, steps


@pytest.mark.parametrize(
    ("dices", "best", "kept"),
    [
        ({1: 0.5, 2: 0.7, 3: 0.6}, (2, 0.7), [2, 3]),
        ({1: 0.5, 2: 0.7, 3: 0.7, 4: 0.7, 5: 0.6}, (2, 0.7), [2, 4, 5]),  # of equal ones the first
        ({1: 0.5, 2: None, 3: None, 4: None}, (1, 0.5), [1, 3, 4]),
        ({1: float("nan"), 2: float("nan"), 3: float("nan")}, None, [2, 3]),
        ({1: 0.2, 2: 0.3, 3: 0.9}, (3, 0.9), [2, 3]),
    ],
)
def test_two_newest_and_the_best_are_kept(tmp_path, dices, best, kept):
    save_all(tmp_path, dices)
    assert steps(tmp_path) == kept
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {str(step) for step in kept}
    with Checkpoints(tmp_path, "abc", read_only=True) as checkpoints:
        assert checkpoints.newest() == max(dices)
        assert checkpoints.best() == best


def test_a_reader_is_told_nothing_by_the_library_below(tmp_path, caplog):
    save_all(tmp_path, {3: 0.5})
    caplog.set_level(logging.WARNING, "absl")
    with Checkpoints(tmp_path, "abc", read_only=True):
        assert not caplog.records
    assert logging.getLogger("absl").isEnabledFor(logging.WARNING)  # for the program's own


def test_restores_what_was_saved_onto_all_devices(tmp_path):
    save_all(tmp_path, {3: 0.5})
    with Checkpoints(tmp_path, "abc") as checkpoints:
        state, data = checkpoints.restore_newest(state_at(0))
        struct = jax.ShapeDtypeStruct((7,), jnp.float32, sharding=replicated())
        params = checkpoints.restore_params(3, {"kernel": struct})
    jax.tree.map(np.testing.assert_array_equal, state, state_at(3))
    assert data == {"slices_consumed": 24}
    np.testing.assert_array_equal(params["kernel"], np.arange(7.0) + 3)
    for leaf in [*jax.tree.leaves(state), params["kernel"]]:
        assert leaf.sharding.is_fully_replicated
        assert leaf.sharding.device_set == set(jax.local_devices())


def test_another_encoder_is_refused(tmp_path):
    save_all(tmp_path, {3: 0.5})
    with Checkpoints(tmp_path, "xyz") as checkpoints:
        with pytest.raises(InputError, match=r"abc.*xyz"):
            checkpoints.restore_newest(state_at(0))
        with pytest.raises(InputError, match=r"abc.*xyz"):
            checkpoints.restore_params(3, {"kernel": state_at(0).params["kernel"]})


def test_a_reader_leaves_a_save_in_progress_alone(tmp_path):
    save_all(tmp_path, {3: 0.5})
    unfinished = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "3", unfinished)
    with Checkpoints(tmp_path, "abc", read_only=True) as checkpoints:
        assert checkpoints.newest() == 3
    assert unfinished.is_dir()
    # The next training run, which alone may write here, tidies up before it saves.
    save_all(tmp_path, {5: 0.4})
    assert not unfinished.exists() and steps(tmp_path) == [3, 5]


def test_a_reader_changes_nothing_in_the_folder(tmp_path):
    save_all(tmp_path, {3: 0.5})
    (tmp_path / "checkpoints" / REMOVED / "2").mkdir(parents=True)  # a training is deleting it
    before = sorted(tmp_path.rglob("*"))
    with Checkpoints(tmp_path, "abc", read_only=True) as checkpoints:
        assert checkpoints.best() == (3, 0.5)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_folder_is_made_by_reading(tmp_path):
    with pytest.raises(InputError, match="checkpoints"):
        Checkpoints(tmp_path, "abc", read_only=True)
    assert not list(tmp_path.iterdir())


def test_a_step_can_be_saved_again(tmp_path):
    """As after a validation that a signal cut short."""
    with Checkpoints(tmp_path, "abc") as checkpoints:
        checkpoints.save(state_at(1), {"slices_consumed": 8}, 0.5)
        checkpoints.save(state_at(2), {"slices_consumed": 16, "row": {}}, None)
    save_all(tmp_path, {2: 0.6})
    with Checkpoints(tmp_path, "abc") as checkpoints:
        assert checkpoints.best() == (2, 0.6)
        assert checkpoints.restore_newest(state_at(0))[1] == {"slices_consumed": 16}
