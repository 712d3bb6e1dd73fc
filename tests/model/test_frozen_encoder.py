"""Runs with converted weights: used as they are, named in the results, refused when wrong."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import tiny_run
from configs import giant
from lagseg_jax import main
from lagseg_jax.config.choices import VARIANTS
from lagseg_jax.inference.load_segmenter import load_segmenter
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.frozen_encoder import load_frozen_encoder
from lagseg_jax.model.weights import TENSORS, encoder_hash, random_params
from lagseg_jax.runtime.devices import params_hash
from lagseg_jax.runtime.errors import InputError
from weight_conversion.write import write_encoder


@pytest.fixture
def weights(tmp_path):
    """A folder as the conversion writes it, with a tiny encoder; and the card."""
    spec = EncoderSpec("tiny")
    flat = flatten_dict(random_params(spec, 7, "float32"), sep="/")
    folder = tmp_path / "weights"
    card = write_encoder(folder, spec, "float32", lambda name: [np.asarray(flat[name])], {})
    return folder, card


def with_weights(phantom, folder, **encoder):
    config = tiny_run.config(phantom, epochs=1 / 8)
    config.encoder.weights = str(folder)
    config.encoder.update(encoder)
    return config


def test_a_run_names_its_encoder_and_knows_it_again(weights, phantom, tmp_path):
    folder, card = weights
    workdir = tmp_path / "run"
    config = with_weights(phantom, folder)
    summary = main.run(config, workdir, "train")
    assert summary["encoder"]["sha256"] == card["encoder_sha256"]
    assert summary["encoder"]["weights"] == str(folder) and "warning" not in summary["encoder"]
    assert "random" not in (workdir / "evaluation" / "per_case.csv").read_text()
    assert "warning" not in json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    # Training the same run further with random weights, which are another encoder, is refused.
    config.encoder.weights = ""
    with pytest.raises(InputError, match=card["encoder_sha256"]):
        main.run(config, workdir, "train")


def test_the_same_tensors_by_another_rule_are_another_encoder(weights, phantom, tmp_path):
    folder, card = weights
    main.run(with_weights(phantom, folder), tmp_path / "run", "train")
    flat = flatten_dict(random_params(EncoderSpec("tiny"), 7, "float32"), sep="/")
    other = write_encoder(
        *(tmp_path / "other", EncoderSpec("tiny", interpolation="size"), "float32"),
        *(lambda name: [np.asarray(flat[name])], {}),
    )
    assert other["sha256"] == card["sha256"]
    with pytest.raises(InputError, match=f"{card['encoder_sha256']}.*{other['encoder_sha256']}"):
        main.run(with_weights(phantom, tmp_path / "other"), tmp_path / "run", "evaluate")
    with pytest.raises(InputError, match="another rule of position-embedding interpolation"):
        load_segmenter(tmp_path / "run", tmp_path / "other")


def test_identity_of_a_random_encoder(phantom):
    config = tiny_run.config(phantom, epochs=1 / 8)
    encoder = load_frozen_encoder(config)
    assert encoder.sha256 == encoder_hash(params_hash(encoder.params), encoder.spec)
    assert encoder.report()["interpolation"] == "offset" and encoder.report()["grid"] == 37


def test_the_warning_of_random_weights_names_the_line_that_fetches_published_ones(monkeypatch):
    sizes = {"width": 32, "depth": 1, "heads": 2, "mlp": "swiglu", "hidden": 16}
    monkeypatch.setitem(VARIANTS, "giant", sizes)
    config = giant.get_config()
    line = "python -m weight_conversion.convert --input=facebook/dinov2-{}giant "
    line += "--output=weights/giant` fetches published ones for --config.encoder.weights="
    assert line.format("") in load_frozen_encoder(config).warning
    config.encoder.registers = 4
    assert line.format("with-registers-") in load_frozen_encoder(config).warning
    config.encoder.variant = "tiny"
    warning = load_frozen_encoder(config).warning
    assert "convert" not in warning and "--config=configs/small.py" in warning


def test_on_all_devices_in_the_compute_dtype(weights, phantom):
    folder, _ = weights
    encoder = load_frozen_encoder(with_weights(phantom, folder, dtype="bfloat16"))
    for name, leaf in flatten_dict(encoder.params, sep="/").items():
        assert leaf.dtype == ("bfloat16" if name.endswith("kernel") else "float32"), name
        assert leaf.sharding.device_set == set(jax.local_devices()), name


def test_another_variant_and_damaged_weights_are_refused(weights, phantom, tmp_path):
    folder, _ = weights
    for encoder in ({"variant": "small"}, {"registers": 4}):
        with pytest.raises(ValueError, match=r"weights.* tiny without registers.* asked for"):
            main.run(with_weights(phantom, folder, **encoder), tmp_path / "run", "train")
    content = bytearray((folder / TENSORS).read_bytes())
    content[-3] ^= 1
    (folder / TENSORS).write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        main.run(with_weights(phantom, folder), tmp_path / "other", "train")
    assert not (tmp_path / "other" / "checkpoints").exists()
