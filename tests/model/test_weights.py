"""Converted weights: written whole, verified, refused when they are not what was asked for."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

import lagseg_jax
from lagseg_jax.imaging.interpolation import RULES
from lagseg_jax.model.encoder_spec import EncoderSpec, conversion_command
from lagseg_jax.model.weights import (
    encoder_hash,
    load_params,
    mismatch,
    param_shapes,
    random_params,
)
from lagseg_jax.runtime.devices import params_hash
from lagseg_jax.runtime.errors import InputError
from weight_conversion.write import write_encoder

SPEC = EncoderSpec("tiny", 4)


@pytest.fixture(scope="module")
def params():
    return random_params(SPEC, 5, "float32")


def write(folder, params, dtype="float32"):
    """Stacked leaves block by block, as the conversion does."""
    flat = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
    return write_encoder(folder, SPEC, dtype, lambda name: iter(flat[name]), {"note": "test"})


@pytest.fixture
def folder(tmp_path, params):
    write(tmp_path / "encoder", params)
    return tmp_path / "encoder"


def test_what_is_written_is_read_back(folder, params):
    spec, loaded, sha256 = load_params(folder, "float32")
    assert spec == SPEC
    assert params_hash(loaded) == params_hash(params)
    assert sha256 == json.loads((folder / "card.json").read_text())["encoder_sha256"]
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "encoder.safetensors"]


def test_safetensors_own_reader_agrees(folder, params):
    stored = load_file(folder / "encoder.safetensors")
    flat = flatten_dict(params, sep="/")
    assert {name: leaf.shape for name, leaf in stored.items()} == param_shapes(SPEC)
    assert all(np.array_equal(stored[name], flat[name]) for name in flat)


def test_identity_is_tensors_and_rules(folder):
    ours = load_params(folder, "float32")[2]
    card = json.loads((folder / "card.json").read_text())
    assert ours == card["encoder_sha256"] != card["sha256"]
    rules = [(rule, grid) for rule in RULES for grid in (16, 37)]
    specs = [EncoderSpec("tiny", 4, *rule) for rule in rules]
    assert len({encoder_hash(hashes, s) for s in specs for hashes in "ab"}) == 2 * len(specs)
    # Whoever changes the rule on the card gets another encoder, whatever else stands there.
    (folder / "card.json").write_text(json.dumps(card | {"interpolation": "size"}))
    spec, _, other = load_params(folder, "float32")
    assert other == encoder_hash(card["sha256"], spec) != ours


def test_card_says_what_it_is(folder):
    card = json.loads((folder / "card.json").read_text())
    assert card["variant"] == "tiny" and card["registers"] == 4 and card["grid"] == 37
    assert card["interpolation"] == "antialias" and card["dtype"] == "float32"
    assert card["parameters"] == sum(int(np.prod(s)) for s in param_shapes(SPEC).values())
    assert card["note"] == "test"


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_kernels_come_in_the_compute_dtype_and_all_else_in_float32(
    tmp_path, params, stored, compute
):
    write(tmp_path / "w", params, stored)
    put = []
    _, loaded, _ = load_params(tmp_path / "w", compute, put=lambda x: put.append(x) or x)
    flat = flatten_dict(loaded, sep="/")
    assert len(put) == len(flat)
    for name, leaf in flat.items():
        assert str(leaf.dtype) == (compute if name.endswith("kernel") else "float32")
        exact = np.asarray(flatten_dict(params, sep="/")[name])
        assert np.allclose(leaf.astype(np.float32), exact, rtol=2**-8, atol=0)


def test_another_variant_is_refused(folder):
    assert load_params(folder, "float32", expected=("tiny", 4))[0] == SPEC
    for expected, words in ((("base", 4), "base with 4"), (("tiny", 0), "tiny without")):
        with pytest.raises(
            InputError, match=rf"tiny with 4 registers.*{words} registers.*--input="
        ):
            load_params(folder, "float32", expected=expected)


def test_the_line_that_fetches_the_published_weights():
    command = "python -m weight_conversion.convert --input=facebook/dinov2-"
    found = conversion_command("giant", 0)
    assert found == f"`{command}giant --output=weights/giant`"
    found = conversion_command("small", 4, "my weights")
    assert found == f"`{command}with-registers-small --output='my weights'`"
    found = conversion_command("base", 0, "facebook/dinov2-giant")  # where a folder was expected
    assert found == f"`{command}giant --output=weights/giant`"
    assert conversion_command("tiny", 0) == f"`{command}base --output=weights/base`"


def test_no_weights_there(tmp_path, folder):
    line = "python -m weight_conversion.convert --input=facebook/dinov2-{} --output="
    for expected, name in {None: "base", ("giant", 4): "with-registers-giant"}.items():
        with pytest.raises(InputError, match=f"nowhere.*{line.format(name)}.*nowhere"):
            load_params(tmp_path / "nowhere", "float32", expected=expected)
    (folder / "encoder.safetensors").unlink()
    with pytest.raises(InputError, match=r"encoder\.safetensors not found"):
        load_params(folder, "float32")


def test_one_flipped_bit_is_found(folder):
    path = folder / "encoder.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged.*SHA-256"):
        load_params(folder, "float32")
    load_params(folder, "float32", verify=False)


def test_truncated_file_is_refused_without_verifying(folder):
    path = folder / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="cannot be read"):
        load_params(folder, "float32", verify=False)


def test_missing_extra_and_misshaped_are_listed(folder):
    path = folder / "encoder.safetensors"
    tensors = load_file(path)
    del tensors["norm/bias"]
    tensors["head"] = np.zeros(2, np.float32)
    tensors["class_token"] = tensors["class_token"][:-1]
    save_file(tensors, path)
    with pytest.raises(InputError) as error:
        load_params(folder, "float32", verify=False)
    assert "missing norm/bias; extra head; wrong shape class_token (63,)" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"variant": "huge", "registers": 0}', '{"variant": ["tiny"]}']
)
def test_bad_card(folder, text):
    (folder / "card.json").write_text(text)
    with pytest.raises(InputError, match=r"card\.json .*a card written by weight_conversion"):
        load_params(folder, "float32")


def test_nothing_is_left_of_a_write_that_fails(tmp_path, folder, params):
    flat = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}

    def stop_late(name):
        if name == "position_embedding":
            raise InputError("stop")
        return iter(flat[name])

    before = (folder / "encoder.safetensors").read_bytes()
    for target in (tmp_path / "new", folder):
        with pytest.raises(InputError, match="stop"):
            write_encoder(target, SPEC, "float32", stop_late, {})
    assert not (tmp_path / "new").exists()
    assert (folder / "encoder.safetensors").read_bytes() == before
    load_params(folder, "float32")


def test_too_few_parts_are_noticed(tmp_path, params):
    flat = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
    with pytest.raises(ValueError, match="do not make up its shape"):
        write_encoder(tmp_path / "w", SPEC, "float32", lambda name: iter(flat[name][1:]), {})


def test_hash_sees_every_kind_of_change(params):
    original = params_hash(params)
    assert params_hash(random_params(SPEC, 5, "float32")) == original
    assert params_hash(random_params(SPEC, 6, "float32")) != original
    assert params_hash(random_params(SPEC, 5, "bfloat16")) != original
    renamed = dict(params)
    renamed["token"] = renamed.pop("class_token")
    assert params_hash(renamed) != original
    assert params_hash(params | {"class_token": params["class_token"].reshape(8, 8)}) != original


def test_mismatch_in_words():
    expected = {f"blocks.{i}.gamma": (3,) for i in range(12)} | {"norm": (3,)}
    assert mismatch(expected, expected) == ""
    assert mismatch({"norm": (4,)}, expected) == (
        "missing blocks.*.gamma (12 times); wrong shape norm (4,) instead of (3,)"
    )
    assert mismatch(expected | {"head": ()}, expected) == "extra head"


def test_random_parameters_are_normal_numbers_ones_and_zeros():
    for name, leaf in flatten_dict(random_params(SPEC, 5, "float32"), sep="/").items():
        kind, values = name.rpartition("/")[2], np.asarray(leaf)
        if kind == "bias" or kind.startswith("scale"):
            assert (values == (kind != "bias")).all(), name
        elif values.size > 5000:  # a normal distribution cut at two sigma has a spread of 0.96
            assert np.abs(values).max() == pytest.approx(0.04), name
            assert values.std() == pytest.approx(0.0192, rel=0.05), name


def test_run_time_has_neither_torch_nor_pickle():
    for path in Path(lagseg_jax.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [getattr(n, "name", n) for n in getattr(node, "names", [])]
            names.append(getattr(node, "module", "") or "")
            assert not {name.split(".")[0] for name in names} & {"torch", "pickle"}, path
    code = "import sys, lagseg_jax.model.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
