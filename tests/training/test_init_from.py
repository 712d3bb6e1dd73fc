"""A training that begins with another run's parameters: what it takes, refuses and gains."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest

import tiny_run
from lagseg_jax import main
from lagseg_jax.data.phantom import write_dataset
from lagseg_jax.model.frozen_encoder import load_frozen_encoder
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.runs.checkpoint import Checkpoints
from lagseg_jax.runs.init_source import read_source
from lagseg_jax.runtime.devices import tree_hash
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import file_sha256
from lagseg_jax.training.init_from import check_init_from, initial_params
from run_files import raw_checkpoint, rows


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    """Root of six small CT-like phantoms."""
    root = tmp_path_factory.mktemp("ct") / "data"
    sizes = {"shape": (43, 41, 13), "spacing": (2.5, 2.5, 5.0)}
    return write_dataset(root, cases=6, seed=1, family="ct", **sizes)


def train(workdir, data, steps, **options):
    """Trains without augmentation, whose gain takes more steps than a test has."""
    fast = {"learning_rate": 3e-3, "warmup_steps": 0, "loss": "bce+dice", "batch_size": 8}
    rarely = {"evaluate_every": 15, "checkpoint_every": 15, "patience": 0}
    config = tiny_run.config(data, steps=steps, **fast, **rarely, **options)
    for name in config.augment:
        config.augment[name] = 0.0
    return main.run(config, workdir, "train")


def validation_dices(workdir):
    return [row["validation_dice"] for row in rows(workdir) if "validation_dice" in row]


def test_a_second_family_takes_fewer_steps_and_the_source_may_go(phantom, ct, tmp_path, caplog):
    source, tuned, fresh = (tmp_path / name for name in ("source", "tuned", "fresh"))
    train(source, phantom, 50)
    config_sha256 = file_sha256(source / "config.json")
    train(fresh, ct, 30)
    train(tuned, ct, 15, init_from=str(source))
    assert max(validation_dices(tuned)) >= max(validation_dices(fresh)) > 0.4

    with Checkpoints(source, "", read_only=True) as checkpoints:
        step = checkpoints.best()[0]
    params = raw_checkpoint(source, step)["params"]
    expected = {"path": str(source), "checkpoint_step": step, "sha256": tree_hash(params)}
    expected["config_sha256"] = config_sha256
    manifest = json.loads((tuned / "evaluation" / "manifest.json").read_text())
    assert manifest["init_from"] == expected
    assert str(source) in (tuned / "evaluation" / "report.html").read_text()

    shutil.rmtree(source)
    caplog.clear()  # an earlier test may have left the level at which all is captured
    with caplog.at_level(logging.INFO, "lagseg_jax"):
        train(tuned, ct, 20, init_from=str(source))
    assert "continuing from step 15" in caplog.text
    assert "beginning with" not in caplog.text
    manifest = json.loads((tuned / "evaluation" / "manifest.json").read_text())
    assert manifest["init_from"] == expected and manifest["checkpoint_step"] <= 20


def prepared(finished_run, phantom, tmp_path, **options):
    """A config that begins with the finished run, and a workdir with a split of other cases."""
    config = tiny_run.config(phantom, init_from=str(finished_run), **options)
    split = json.loads((finished_run / "splits.json").read_text())
    other = {"train": ["a"], "validation": ["b"], "test": ["c"]}
    hashes = {name: {"image": name * 64, "label": name * 64} for name in "abc"}
    (tmp_path / "splits.json").write_text(json.dumps({**other, "sha256": hashes}))
    return config, split


def test_it_takes_the_best_parameters_and_nothing_else(finished_run, phantom, tmp_path):
    config, split = prepared(finished_run, phantom, tmp_path)
    config.data.image_size = 56  # fusion and decoder fit any size
    encoder = load_frozen_encoder(config)
    params = initial_params(config, tmp_path, build_model(config, encoder.spec), encoder)
    source = read_source(tmp_path)
    saved = raw_checkpoint(finished_run, source["checkpoint_step"])["params"]
    jax.tree.map(np.testing.assert_array_equal, params, saved)
    # Who is judged on cases of the first run later is told so, when that run has gone.
    names = split["train"] + split["validation"]
    assert {split["sha256"][n]["image"]: n for n in names}.items() <= source["seen"].items()
    assert sorted(source["seen"].values()) == sorted(2 * names)  # file and voxels


@pytest.mark.parametrize(
    ("field", "value"),
    [("decoder.widths", (16, 16, 16)), ("encoder.registers", 4), ("fusion.blocks", "last")],
)
def test_other_shapes_are_named(finished_run, phantom, tmp_path, field, value):
    config, _ = prepared(finished_run, phantom, tmp_path)
    encoder = load_frozen_encoder(config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError) as error:
        check_init_from(config, encoder)
    before = tiny_run.config(phantom)
    section, name = field.split(".")
    for said in (f"config.{field}", repr(value), repr(before[section][name]), str(finished_run)):
        assert said in str(error.value)


def test_an_adapted_run_begins_as_the_frozen_one_that_it_is_given(finished_run, phantom, tmp_path):
    """Its adapter has no effect at first; other adapters than the source's are refused."""
    config, _ = prepared(finished_run, phantom, tmp_path)
    config.encoder.lora_rank = 2
    encoder = load_frozen_encoder(config)
    model = build_model(config, encoder.spec)
    check_init_from(config, encoder)
    params = initial_params(config, tmp_path, model, encoder)
    saved = raw_checkpoint(finished_run, read_source(tmp_path)["checkpoint_step"])["params"]
    jax.tree.map(np.testing.assert_array_equal, {k: params[k] for k in saved}, saved)
    assert set(params) - set(saved) == {"lora"} and np.any(params["lora"]["a"])
    start = model.adapted(encoder.params, params)
    jax.tree.map(np.testing.assert_array_equal, start, encoder.params)

    source = shutil.copytree(finished_run, tmp_path / "adapted")
    record = json.loads((source / "config.json").read_text())
    record["encoder"]["lora_rank"] = 4
    (source / "config.json").write_text(json.dumps(record))
    for rank in (0, 2):
        config.encoder.lora_rank, config.train.init_from = rank, str(source)
        with pytest.raises(InputError, match=f"config.encoder.lora_rank is {rank}, but .* with 4"):
            check_init_from(config, encoder)


def test_another_encoder_is_refused(finished_run, phantom, tmp_path):
    config, _ = prepared(finished_run, phantom, tmp_path)
    config.encoder.seed = 1
    with pytest.raises(InputError, match=r"config\.train\.init_from: .*another rule|other tensors"):
        main.run(config, tmp_path / "new", "train")
    assert not (tmp_path / "new" / "config.json").exists()


def test_a_folder_that_is_no_run_is_refused(phantom, tmp_path):
    config = tiny_run.config(phantom, init_from=str(tmp_path))
    with pytest.raises(InputError, match=r"config\.train\.init_from: .*config\.json"):
        main.run(config, tmp_path / "new", "train")


def test_test_cases_that_the_source_has_seen_are_refused(finished_run, phantom, tmp_path):
    config, split = prepared(finished_run, phantom, tmp_path)
    other = {"train": ["a"], "validation": ["b"], "test": split["train"][:1]}
    record = {**other, "sha256": split["sha256"]}
    (tmp_path / "splits.json").write_text(json.dumps(record))
    encoder = load_frozen_encoder(config)
    model = build_model(config, encoder.spec)
    with pytest.raises(InputError, match=rf"'{split['train'][0]}' .*seen_case"):
        initial_params(config, tmp_path, model, encoder)
    config.data.allow = ("seen_case",)
    assert initial_params(config, tmp_path, model, encoder)
