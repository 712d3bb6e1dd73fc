"""Checkpoints: newest and best are kept, another encoder is refused, readers change nothing."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lagseg_jax.checkpoint import Checkpoints
from lagseg_jax.devices import replicate, replicated
from lagseg_jax.errors import InputError
from lagseg_jax.train_step import TrainState


def state_at(step):
    params = {"kernel": jnp.arange(7.0) + step}
    return replicate(TrainState(jnp.int32(step), params, (jnp.full(5, step, jnp.float32),)))


def save_all(workdir, dices):
    with Checkpoints(workdir, "abc") as checkpoints:
        for step, dice in dices.items():
            checkpoints.save(state_at(step), {"slices_consumed": 8 * step}, dice)


def steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


@pytest.mark.parametrize(
    ("dices", "best", "kept"),
    [
        ({1: 0.5, 2: 0.7, 3: 0.6}, (2, 0.7), [2, 3]),
        ({1: 0.5, 2: 0.7, 3: 0.7, 4: 0.7}, (2, 0.7), [2, 4]),  # of equal ones the earliest
        ({1: 0.5, 2: None, 3: None}, (1, 0.5), [1, 3]),
        ({1: float("nan"), 2: float("nan")}, None, [2]),
        ({1: 0.2, 2: 0.9}, (2, 0.9), [2]),
    ],
)
def test_newest_and_best_are_kept(tmp_path, dices, best, kept):
    save_all(tmp_path, dices)
    assert steps(tmp_path) == kept
    with Checkpoints(tmp_path, "abc", read_only=True) as checkpoints:
        assert checkpoints.newest() == max(dices)
        assert checkpoints.best() == best


def test_restores_what_was_saved_onto_all_devices(tmp_path):
    save_all(tmp_path, {3: 0.5})
    with Checkpoints(tmp_path, "abc") as checkpoints:
        state, data = checkpoints.restore(3, state_at(0))
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
            checkpoints.restore(3, state_at(0))
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


def test_no_folder_is_made_by_reading(tmp_path):
    with pytest.raises(InputError, match="checkpoints"):
        Checkpoints(tmp_path, "abc", read_only=True)
    assert not list(tmp_path.iterdir())
