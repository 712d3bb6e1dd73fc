"""Which checkpoint of a run is its model: the best, the newest before any validation, or none."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lagseg_jax.runs import best_params
from lagseg_jax.runs.best_params import restore_best
from lagseg_jax.runs.checkpoint import Checkpoints
from lagseg_jax.runs.direct_read import read_best
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


def test_orbax_reads_the_same(tmp_path, monkeypatch):
    """Whole checkpoints are read without it, others with it, which refuses what is damaged."""
    workdir = saved(tmp_path, {1: 0.5, 2: 0.7})
    step, params = read_best(workdir, "abc", EXPECTED)
    with monkeypatch.context() as without:
        without.setattr(best_params, "read_best", lambda *_: None)
        by_orbax = restore_best(workdir, "abc", EXPECTED)
    assert step == by_orbax[0] == 2
    np.testing.assert_array_equal(params["kernel"], by_orbax[1]["kernel"])
    assert read_best(workdir, "xyz", EXPECTED) is None
    assert read_best(workdir, "abc", {"other": EXPECTED["kernel"]}) is None
    assert read_best(workdir / "elsewhere", "abc", EXPECTED) is None


@pytest.mark.parametrize("damaged", ["1/extra/metadata", "2/extra/metadata", "2/state"])
def test_damage_is_left_to_orbax(tmp_path, damaged):
    workdir = saved(tmp_path, {1: 0.5, 2: 0.7})
    found = workdir / "checkpoints" / damaged
    for path in [found] if found.is_file() else filter(Path.is_file, found.rglob("*")):
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert read_best(workdir, "abc", EXPECTED) is None
    with pytest.raises(InputError, match="damaged"):
        restore_best(workdir, "abc", EXPECTED)


def test_no_checkpoint_and_another_encoder_are_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="has no checkpoint"):
        restore_best(tmp_path, "abc", EXPECTED)
    with pytest.raises(InputError, match=r"abc.*xyz"):
        restore_best(saved(tmp_path, {1: 0.5}), "xyz", EXPECTED)
