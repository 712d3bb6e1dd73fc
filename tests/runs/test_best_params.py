"""Which checkpoint of a run is its model: the best, the newest before any validation, or none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lagseg_jax.runs.best_params import restore_best
from lagseg_jax.runs.checkpoint import Checkpoints
from lagseg_jax.runs.train_state import TrainState
from lagseg_jax.runtime.devices import replicate
from lagseg_jax.runtime.errors import InputError

EXPECTED = {"kernel": jax.ShapeDtypeStruct((7,), jnp.float32)}


def saved(workdir, dices):
    """A run whose parameters are its steps."""
    with Checkpoints(workdir, "abc") as checkpoints:
        for step, dice in dices.items():
            params = {"kernel": jnp.full(7, step, jnp.float32)}
            checkpoints.save(replicate(TrainState(jnp.int32(step), params, ())), {}, dice)
    return workdir


@pytest.mark.parametrize(
    ("dices", "expected"),
    [({1: 0.7, 2: 0.6, 3: None}, 1), ({1: 0.6, 2: 0.7, 3: 0.7}, 2), ({1: None, 2: None}, 2)],
)
def test_the_best_or_else_the_newest(tmp_path, dices, expected):
    step, params = restore_best(saved(tmp_path, dices), "abc", EXPECTED)
    assert step == expected
    np.testing.assert_array_equal(params["kernel"], np.full(7, expected))


def test_no_checkpoint_and_another_encoder_are_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="has no checkpoint"):
        restore_best(tmp_path, "abc", EXPECTED)
    with pytest.raises(InputError, match=r"abc.*xyz"):
        restore_best(saved(tmp_path, {1: 0.5}), "xyz", EXPECTED)
