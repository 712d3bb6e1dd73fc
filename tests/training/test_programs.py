"""The step of a training is compiled beside the reading, and is the one that training calls."""

import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import tiny_run
from lagseg_jax import main
from lagseg_jax.data.batches import TrainingBatches, split_over_devices
from lagseg_jax.model.weights import random_params
from lagseg_jax.runtime.devices import Mapped, replicate
from lagseg_jax.runtime.errors import InputError, TrainingError
from lagseg_jax.training import load_slices
from lagseg_jax.training.programs import Programs, begin_compiling
from lagseg_jax.training.step import TrainStep, augmentation_of, init_state

SIDE, COUNT = 42, 4


def still_config() -> ml_collections.ConfigDict:
    config = tiny_run.config(Path("nowhere"))
    config.augment.update({name: 0.0 for name in config.augment})
    return config


def batch_like_those_of_a_training(programs: Programs, with_tokens: bool) -> dict:
    rng, spec = np.random.default_rng(5), programs.model.encoder.spec
    batch = {
        "image": rng.random((COUNT, SIDE, SIDE)).astype(np.float16),
        "mask": rng.integers(0, 2, (COUNT, SIDE, SIDE), np.uint8),
        "slice": np.arange(COUNT, dtype=np.int32),
        "case": np.zeros(COUNT, np.int32),
    }
    if with_tokens:
        shape = COUNT, spec.depth, SIDE // 14, SIDE // 14, spec.width
        batch["tokens"] = rng.normal(size=shape).astype(np.float32)
    return split_over_devices(batch, jax.local_device_count())


def forbid_compiling(step: TrainStep, monkeypatch) -> None:
    """Once both parts are there, nothing is traced again, and nothing compiled."""
    for part in (step._encode, step._update):
        part._compiled()
        monkeypatch.setattr(part, "_on_all", None)


@pytest.mark.parametrize("changes", [{}, {"cache_features": True}, {"lora_rank": 2}], ids=str)
def test_training_calls_what_was_compiled_and_its_step_is_the_same(changes, monkeypatch):
    config = still_config()
    config.train.cache_features = changes.get("cache_features", False)
    config.encoder.lora_rank = changes.get("lora_rank", 0)
    programs = begin_compiling(config)
    model, optimizer = programs.model, programs.optimizer
    parts = model, optimizer, config.train.loss, augmentation_of(config.augment), config.seed
    compiled_at_its_call = TrainStep(*parts)
    forbid_compiling(programs.train_step, monkeypatch)
    encoder = replicate(random_params(model.encoder.spec, 0, "float32"))
    batch = batch_like_those_of_a_training(programs, config.train.cache_features)
    state = init_state(model.init_params(jax.random.key(1), SIDE), optimizer)
    rate = replicate(np.float32(1e-3))
    found, expected = (
        step(replicate(jax.tree.map(jnp.copy, state)), rate, encoder, batch)
        for step in (programs.train_step, compiled_at_its_call)
    )
    assert not found[2].skipped
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_it_is_compiled_before_the_first_batch_by_other_threads(phantom, tmp_path, monkeypatch):
    """Volumes are not prepared before it is; then they are, and nothing is compiled again."""
    compiled, both = [], threading.Event()
    compile_one, prepare, first = Mapped._compile, load_slices.prepare_cases, TrainingBatches

    def compile_and_tell(mapped, *like):
        program = compile_one(mapped, *like)
        compiled.append(threading.current_thread())
        if len(compiled) == 2:
            both.set()
        return program

    def prepare_later(*arguments, **options):
        assert both.wait(120)
        return prepare(*arguments, **options)

    class Stopped(Exception):
        pass

    def stop(batches):
        raise Stopped

    monkeypatch.setattr(Mapped, "_compile", compile_and_tell)
    monkeypatch.setattr(load_slices, "prepare_cases", prepare_later)
    monkeypatch.setattr(first, "__next__", stop)
    with pytest.raises(Stopped):
        tiny_run.run(tmp_path / "run", phantom)
    assert len(compiled) == 2 and threading.main_thread() not in compiled


@pytest.mark.parametrize(
    ("text", "error", "expected"),
    [
        ("RESOURCE_EXHAUSTED: 17 bytes", TrainingError, "needs more memory than is free"),
        ("INTERNAL: 17", RuntimeError, "INTERNAL: 17"),
    ],
)
def test_an_error_of_the_compiler_ends_the_training(
    phantom, tmp_path, monkeypatch, text, error, expected
):
    """With the sentence of one that comes when the step is called."""

    def fail(*_):
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(Mapped, "_compile", fail)
    with pytest.raises(error, match=expected):
        tiny_run.run(tmp_path / "run", phantom)


def test_what_is_refused_does_not_wait_for_the_compiler(tmp_path, monkeypatch):
    released, entered = threading.Event(), threading.Event()

    def compile_for_ever(*_):
        entered.set()
        released.wait()

    monkeypatch.setattr(Mapped, "_compile", compile_for_ever)
    start = time.monotonic()
    config = tiny_run.config(tiny_run.write_phantom(tmp_path))
    config.data.allow = ()
    label = sorted((tmp_path / "data").rglob("atriumSegImgMO*"))[0]
    label.write_bytes(label.read_bytes()[:200])
    try:
        with pytest.raises(InputError, match=label.name):
            main.run(config, tmp_path / "run", "train")
        assert entered.is_set() and time.monotonic() - start < 60
        assert not (tmp_path / "run" / "config.json").exists()
    finally:
        released.set()
