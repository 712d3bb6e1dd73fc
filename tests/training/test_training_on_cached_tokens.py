"""Training cannot tell cached tokens from those of the encoder."""

import json
import re
import shutil
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest

import pod
import tiny_run
from configs import default
from killed import killed_after
from lagseg_jax.config.validate import check_config
from lagseg_jax.data.disk_cache import TEMPORARY
from lagseg_jax.data.run_split import load_split
from lagseg_jax.model.frozen_encoder import load_frozen_encoder
from lagseg_jax.model.segmentation import Model
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.training import loop
from lagseg_jax.training.programs import begin_compiling
from run_files import raw_checkpoint


@pytest.mark.parametrize("name", list(default.get_config().augment))
def test_augmentation_is_refused(name):
    config = still_config("somewhere")
    check_config(config)
    config.augment[name] = 0.25
    with pytest.raises(InputError) as error:
        check_config(config)
    assert str(error.value) == (
        "config.train.cache_features needs images that never change, but "
        f"config.augment.{name} is 0.25, expected 0 for all of config.augment"
    )


def still_config(root) -> ml_collections.ConfigDict:
    """The tiny run without augmentation, with cached features."""
    config = tiny_run.config(Path(root))
    config.augment.update({name: 0.0 for name in config.augment})
    config.train.cache_features = True
    return config


def trained(workdir, config):
    """Trains only; the logged values of every step, and the parameters and the optimiser's."""
    check_config(config)
    split = load_split(config, workdir)
    encoder, programs = load_frozen_encoder(config), begin_compiling(config)
    assert not loop.train(config, workdir, split, encoder, programs)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()][1:]
    for row in rows:
        row.pop("slices_per_second", None)
    return rows, raw_checkpoint(workdir, tiny_run.STEPS)


@pytest.fixture(scope="module")
def with_cache(phantom, tmp_path_factory):
    """A finished run with cached features."""
    return trained(tmp_path_factory.mktemp("features") / "run", still_config(phantom))


def test_training_gives_the_same_with_and_without_the_cache(phantom, with_cache, tmp_path):
    config = still_config(phantom)
    config.train.cache_features = False
    rows, state = trained(tmp_path / "run", config)
    assert [row["step"] for row in rows] == list(range(1, tiny_run.STEPS + 1))
    assert sum("validation_dice" in row for row in rows) == tiny_run.STEPS // 2
    for row, cached in zip(rows, with_cache[0], strict=True):
        assert row.keys() == cached.keys()
        for name, value in row.items():
            np.testing.assert_allclose(cached[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    jax.tree.map(compare, with_cache[1]["params"], state["params"])


def test_resumes_exactly_and_never_runs_the_encoder(phantom, with_cache, tmp_path, monkeypatch):
    """Killed after step 3, between two checkpoints; the tokens are those of the first run."""

    def fail(*_):
        raise AssertionError("the encoder was run")

    monkeypatch.setattr(Model, "tokens", fail)
    monkeypatch.setattr(Model, "fused", fail)
    with killed_after(3):
        trained(tmp_path / "run", still_config(phantom))
    rows, state = trained(tmp_path / "run", still_config(phantom))
    assert rows == with_cache[0]
    jax.tree.map(np.testing.assert_array_equal, state, with_cache[1])


def test_two_processes_encode_every_case_once(phantom, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(phantom, root)
    status, said = pod.run(
        2, "tests.helpers.pod_worker", "features", str(root), str(tmp_path / "run")
    )
    assert status == 0, said
    assert sorted(re.findall(r"process \d encoded (\d) cases", said)) == ["2", "2"], said
    names = [entry.name for entry in (tmp_path / "cache" / "features").iterdir()]
    assert len(names) == 4 and not any(name.startswith(TEMPORARY) for name in names)
