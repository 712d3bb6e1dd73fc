"""Every publisher's file -> the same encoder, equal to PyTorch; anything else -> one sentence.

The same random weights are renamed into every format. The converted files must then be equal byte
for byte, and the encoder run from them equal to Hugging Face's models or to the plain PyTorch
module of dinov2_torch.py, once for every rule of position-embedding interpolation.
"""

import functools
import json
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file

import dinov2_torch as reference
from lagseg_jax.config.choices import VARIANTS
from lagseg_jax.model.encoder import Encoder, EncoderSpec
from lagseg_jax.model.weights import load_params, param_shapes
from lagseg_jax.runtime.errors import InputError
from weight_conversion.convert import convert

FORMATS = {
    "meta": "Meta release",
    "training": "Meta training checkpoint",
    "timm": "timm",
    "huggingface": "Hugging Face",
    "huggingface-sharded": "Hugging Face",
    "huggingface-bin": "Hugging Face",
}


@functools.cache
def model(variant, registers, grid=37):
    return reference.randomise(reference.DINOv2(variant, registers, grid), seed=1).eval()


def publish(folder, style, variant, registers, state=None, grid=37):
    """Write a state dict (Meta's names) as a publisher would; returns what a user would pass."""
    state = dict(model(variant, registers, grid).state_dict()) if state is None else state
    folder.mkdir(parents=True, exist_ok=True)
    if style == "meta":
        torch.save(state, folder / "dinov2_pretrain.pth")
        return folder / "dinov2_pretrain.pth"
    if style == "training":
        torch.save(reference.training_names(state), folder / "teacher_checkpoint.pth")
        return folder / "teacher_checkpoint.pth"
    if style == "timm":
        save_file(reference.timm_names(state), folder / "timm.safetensors")
        return folder / "timm.safetensors"
    state = reference.huggingface_names(state)
    config = reference.huggingface_config(variant, registers, grid)
    (folder / "config.json").write_text(json.dumps(config))
    if style == "huggingface":
        save_file(state, folder / "model.safetensors")
    elif style == "huggingface-bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        names = sorted(state)
        shards = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
        for shard, held in shards.items():
            save_file({name: state[name] for name in held}, folder / shard)
        index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(autouse=True)
def clean_up(tmp_path):
    """pytest keeps the folders of three runs; these would be gigabytes."""
    yield
    shutil.rmtree(tmp_path)


@pytest.fixture
def small_giant(monkeypatch):
    """Giant's gated MLP at a fraction of its size."""
    size = {"width": 96, "depth": 3, "heads": 2, "mlp": "swiglu", "hidden": 256}
    monkeypatch.setitem(VARIANTS, "giant", size)
    monkeypatch.setitem(reference.SIZES, "giant", (96, 3, 2))
    model.cache_clear()
    yield
    model.cache_clear()


# --- exact -------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def encode(encoder, params, images):
    return encoder.apply({"params": params}, images)


def torch_blocks(net, images):
    """Normalised tokens of every block (L, B, N, D) of a PyTorch model."""
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        if isinstance(net, reference.DINOv2):
            outputs = net(images)
        else:
            states = net(images, output_hidden_states=True).hidden_states[1:]
            outputs = [net.layernorm(state) for state in states]
    return torch.stack(outputs).numpy()


def assert_equal_to_torch(folder, net, size, tolerance):
    spec, params, _ = load_params(folder, "float32")
    images = np.random.default_rng(3).normal(size=(1, *size, 3)).astype(np.float32)
    ours, theirs = encode(Encoder(spec), params, images), torch_blocks(net, images)
    first = 1 + spec.registers
    pairs = {
        "class": (ours.class_token, theirs[:, :, 0]),
        "registers": (ours.register_tokens, theirs[:, :, 1:first]),
        "patches": (ours.patch_tokens.reshape(theirs[:, :, first:].shape), theirs[:, :, first:]),
    }
    for kind, (found, expected) in pairs.items():
        for block in range(spec.depth if expected.size else 0):
            error = np.abs(found[block] - expected[block]).max() / np.abs(expected[block]).max()
            assert error <= tolerance, (kind, block)


def transformers_model(folder):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModel.from_pretrained(folder).eval()


SIZES = [(224, 224), (448, 448), (196, 280)]


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("variant", ["small", "base"])
def test_full_size_equals_our_reference(tmp_path, variant, registers):
    convert(publish(tmp_path / "in", "meta", variant, registers), tmp_path / "out")
    for size in SIZES:
        assert_equal_to_torch(tmp_path / "out", model(variant, registers), size, 2e-5)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("variant", ["small", "base"])
def test_full_size_equals_transformers(tmp_path, variant, registers):
    source = publish(tmp_path / "in", "huggingface", variant, registers)
    convert(source, tmp_path / "out")
    net = transformers_model(source)
    for size in SIZES:
        assert_equal_to_torch(tmp_path / "out", net, size, 2e-5)


@pytest.mark.parametrize("registers", [0, 4])
def test_gated_mlp_equals_both(tmp_path, small_giant, registers):
    for style in ("meta", "huggingface"):
        source = publish(tmp_path / style, style, "giant", registers)
        convert(source, tmp_path / "out" / style)
        net = model("giant", registers) if style == "meta" else transformers_model(source)
        assert_equal_to_torch(tmp_path / "out" / style, net, (70, 98), 2e-5)


@pytest.mark.parametrize(
    "variant, registers",
    [("tiny", 0), ("tiny", 4), ("small", 0), ("base", 4), ("giant", 0), ("giant", 4)],
)
def test_all_formats_give_the_same_bytes(tmp_path, request, variant, registers):
    if variant == "giant":
        request.getfixturevalue("small_giant")
    cards = {}
    for style, title in FORMATS.items():
        source = publish(tmp_path / style, style, variant, registers)
        card = convert(source, tmp_path / "out" / style)
        assert (card["variant"], card["registers"], card["format"]) == (variant, registers, title)
        by_rule = {0: "size" if title == "Hugging Face" else "offset", 4: "antialias"}
        assert card["interpolation"] == by_rule[registers]
        cards[style] = card
        shutil.rmtree(tmp_path / style)
    assert len({card["sha256"] for card in cards.values()}) == 1
    # The same tensors are another encoder where they are interpolated by another rule.
    rules = {(card["encoder_sha256"], card["interpolation"]) for card in cards.values()}
    assert len(rules) == len({identity for identity, _ in rules}) == (1 if registers else 2)


def test_training_at_224_pixels_has_its_own_grid(tmp_path):
    source = publish(tmp_path, "training", "tiny", 4, grid=16)
    card = convert(source, tmp_path / "out")
    assert card["grid"] == 16
    for size in ((224, 224), (70, 98)):
        assert_equal_to_torch(tmp_path / "out", model("tiny", 4, 16), size, 2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("style", ["meta", "huggingface"])
def test_half_precision_sources(tmp_path, style, dtype):
    low = {name: t.to(dtype) for name, t in model("tiny", 0).state_dict().items()}
    exact = {name: t.float() for name, t in low.items()}
    cards = [
        convert(publish(tmp_path / key, style, "tiny", 0, state), tmp_path / "out" / key)
        for key, state in (("low", low), ("exact", exact))
    ]
    assert cards[0]["sha256"] == cards[1]["sha256"]


# --- little memory -----------------------------------------------------------------------------


def peak_of(function):
    """Most bytes that NumPy and Python held at once (memory-mapped files do not count)."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("style", ["meta", "huggingface"])
def test_neither_conversion_nor_loading_holds_the_whole_encoder(tmp_path, style):
    source = publish(tmp_path / "in", style, "small", 0)
    convert(publish(tmp_path / "warm", style, "tiny", 0), tmp_path / "warm" / "out")  # imports
    bytes_in_all = 4 * 22_055_808
    assert peak_of(lambda: convert(source, tmp_path / "out")) < 0.2 * bytes_in_all
    # Its largest leaf in bfloat16 is 16 % of the float32 file, one block of it 3 %.
    load = functools.partial(load_params, put=lambda leaf: None)
    assert peak_of(lambda: load(tmp_path / "out", "bfloat16")) < 0.25 * bytes_in_all


# --- the card ----------------------------------------------------------------------------------


def test_card(tmp_path):
    source = publish(tmp_path, "training", "tiny", 4)
    card = convert(source, tmp_path / "out", dtype="bfloat16")
    assert card == json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["parameters"] == sum(
        int(np.prod(shape)) for shape in param_shapes(EncoderSpec("tiny", 4)).values()
    )
    assert card["dtype"] == "bfloat16" and card["versions"]["torch"].startswith("2.")
    assert card["ignored_tensors"] == [
        "teacher.dino_head.mlp.0.weight",
        "teacher.ibot_head.mlp.0.bias",
    ]
    for entry, path in ((card["source"][0], source), (card, tmp_path / "out/encoder.safetensors")):
        found = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
        assert entry["sha256"] == found.stdout.split()[0]
    assert card["source"][0]["file"] == source.name
    assert card["source"][0]["bytes"] == source.stat().st_size


def test_sharded_card_lists_every_file(tmp_path):
    source = publish(tmp_path / "in", "huggingface-sharded", "tiny", 0)
    card = convert(source, tmp_path / "out")
    assert [entry["file"] for entry in card["source"]] == [
        "model.safetensors.index.json",
        "model-1-of-2.safetensors",
        "model-2-of-2.safetensors",
    ]


# --- safe --------------------------------------------------------------------------------------


def refused(tmp_path, source, words):
    """The conversion stops with one sentence that matches, and leaves nothing behind."""
    with pytest.raises(InputError, match=words) as error:
        convert(source, tmp_path / "out")
    message = str(error.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 1200
    assert not (tmp_path / "out").exists()
    return message


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_pickle_runs_nothing(tmp_path, zipped):
    trap, source = tmp_path / "trap", tmp_path / "evil.pth"
    state = {"cls_token": torch.zeros(1), "x": Malice(trap)}
    if zipped:
        torch.save(state, source)
    else:
        source.write_bytes(pickle.dumps(state, protocol=2))
    refused(
        tmp_path, source, r"evil\.pth is truncated, no PyTorch file, or holds more than tensors"
    )
    assert not trap.exists()
    torch.load(source, weights_only=False) if zipped else pickle.loads(source.read_bytes())
    assert trap.exists()  # the trap works


@pytest.mark.parametrize("style", ["meta", "timm"])
@pytest.mark.parametrize("keep", [0, 7, 1000, -5000, -1])
def test_truncated(tmp_path, style, keep):
    source = publish(tmp_path, style, "tiny", 0)
    source.write_bytes(source.read_bytes()[:keep])
    refused(tmp_path, source, "truncated")


def tiny_state(**changes):
    state = dict(model("tiny", 0).state_dict()) | changes
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize("style", ["meta", "huggingface"])
def test_missing_extra_and_misshaped_tensors_are_listed(tmp_path, style):
    names = {"meta": "norm.bias", "huggingface": "layernorm.bias"}
    state = tiny_state(**{"norm.bias": None, "blocks.4.ls1.gamma": torch.ones(64)})
    state["blocks.1.mlp.fc1.weight"] = torch.ones(256, 63)
    message = refused(tmp_path, publish(tmp_path / "in", style, "tiny", 0, state), "tiny")
    assert f"missing {names[style]}; extra " in message
    assert "fc1.weight (256, 63) instead of (256, 64)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan(tmp_path, value):
    gamma = torch.ones(64)
    gamma[17] = value
    source = publish(tmp_path, "meta", "tiny", 0, tiny_state(**{"blocks.3.ls2.gamma": gamma}))
    refused(tmp_path, source, r"NaN or infinite values in blocks\.3\.ls2\.gamma")


def test_earlier_conversion_survives_a_failed_one(tmp_path):
    good = publish(tmp_path / "good", "meta", "tiny", 0)
    card = convert(good, tmp_path / "out")
    bad = {"pos_embed": torch.full((1, 1370, 64), float("nan"))}
    with pytest.raises(InputError, match="NaN"):
        convert(publish(tmp_path / "bad", "meta", "tiny", 0, tiny_state(**bad)), tmp_path / "out")
    assert load_params(tmp_path / "out", "float32")[2] == card["encoder_sha256"]
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_classifier_heads(tmp_path):
    head = {"head.weight": torch.ones(10, 64), "head.bias": torch.ones(10)}
    message = refused(tmp_path, publish(tmp_path, "timm", "tiny", 0, tiny_state(**head)), "extra")
    assert "head.weight" in message

    state = reference.huggingface_names(model("tiny", 0).state_dict())
    state = {f"dinov2.{name}": tensor for name, tensor in state.items()}
    (tmp_path / "hf").mkdir()
    save_file(state, tmp_path / "hf" / "model.safetensors")
    convert(tmp_path / "hf", tmp_path / "prefix-alone-is-fine")
    save_file(
        state | {"classifier.weight": torch.ones(10, 128)}, tmp_path / "hf" / "model.safetensors"
    )
    refused(tmp_path, tmp_path / "hf", r"extra classifier\.weight")


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def a_training_of(state):
    """As training loops save it: counters, an optimizer and a student beside the encoder."""
    moments = {0: {"exp_avg": torch.ones(3), "step": torch.tensor(7)}}
    rest = {"optimizer": {"state": moments}, "epoch": 3, "student": {"backbone": state}}
    return rest | {"lr_scheduler": {"last_epoch": 3}}


WRAPPED = {
    "ddp": lambda state: prefixed("module.", state),
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": prefixed("module.", state)} | a_training_of(state),
    "lightning": lambda state: {"state_dict": prefixed("model.backbone.", state)},
    "teacher": lambda state: {"teacher": prefixed("backbone.", state)},
    "teacher-ddp": lambda state: (
        {"model": {"teacher": prefixed("module.backbone.", state) | {"dino_head.w": torch.ones(2)}}}
        | a_training_of(state)
    ),
    "fsdp": lambda state: {
        "_fsdp_wrapped_module." + name.replace(".1.", ".1._checkpoint_wrapped_module."): t
        for name, t in state.items()
    },
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("style", ["meta", "huggingface"])
def test_wrapped_states_are_the_same_encoder(tmp_path, wrapper, style):
    state = dict(model("tiny", 0).state_dict())
    plain = convert(publish(tmp_path / "plain", style, "tiny", 0), tmp_path / "out" / "plain")
    state = reference.huggingface_names(state) if style == "huggingface" else state
    torch.save(WRAPPED[wrapper](state), tmp_path / "wrapped.pth")
    card = convert(tmp_path / "wrapped.pth", tmp_path / "out" / "wrapped")
    assert card["encoder_sha256"] == plain["encoder_sha256"]
    ignored = ("optimizer.", "student.", "model.teacher.module.dino_head.", "model.teacher.dino_")
    assert all(name.startswith(ignored) for name in card["ignored_tensors"])
    assert len(card["ignored_tensors"]) >= (wrapper in ("model", "teacher-ddp"))


def test_several_encoders_in_one_file(tmp_path):
    state = tiny_state()
    torch.save({"model": state, "teacher": prefixed("backbone.", state)}, tmp_path / "two.pth")
    refused(tmp_path, tmp_path / "two.pth", r"encoders, under model\. and teacher\.backbone")
    torch.save({"model": state, "model_ema": state}, tmp_path / "ema.pth")
    refused(tmp_path, tmp_path / "ema.pth", "extra model_ema")
    doubled = prefixed("module.", state) | {"norm.bias": torch.zeros(64)}
    torch.save(doubled, tmp_path / "doubled.pth")
    refused(tmp_path, tmp_path / "doubled.pth", r"same part.*: module\.norm\.bias and norm\.bias")
    torch.save({"student": state}, tmp_path / "student.pth")
    refused(tmp_path, tmp_path / "student.pth", r"is missing among its .*\(student\.")


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("variant", ["tiny", "giant"])
def test_names_of_transformers_in_memory(tmp_path, small_giant, variant, registers):
    """`torch.save(model.state_dict())`: transformers 5 has other names there than in its files."""
    source = publish(tmp_path / "in", "huggingface", variant, registers)
    net = transformers_model(source)
    torch.save(net.state_dict(), tmp_path / "memory.pth")
    cards = [
        convert(path, tmp_path / "out" / path.stem) for path in (source, tmp_path / "memory.pth")
    ]
    assert len({card["encoder_sha256"] for card in cards}) == 1
    # Written out by hand, so that the property holds with any installed transformers.
    renamed = {
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "mlp.weights_out": "mlp.down_proj",
    }
    state: dict = {}
    for name, t in reference.huggingface_names(model(variant, registers).state_dict()).items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        pieces = {name: t}
        if "mlp.weights_in" in name:
            names = (name.replace("weights_in", f"{part}_proj") for part in ("gate", "up"))
            pieces = dict(zip(names, (piece.clone() for piece in t.chunk(2))))
        state |= pieces
    save_file(state, tmp_path / "hand.safetensors")
    card = convert(tmp_path / "hand.safetensors", tmp_path / "out" / "hand")
    assert card["encoder_sha256"] == cards[0]["encoder_sha256"]


def other_model(kind):
    """Names and shapes of models that users take for DINOv2."""
    state = dict(model("small", 0).state_dict())
    plain = {n: t for n, t in state.items() if ".ls" not in n and n != "mask_token"}
    if kind in ("dino-16", "dino-8"):
        patch = int(kind.removeprefix("dino-"))
        plain["patch_embed.proj.weight"] = torch.zeros(384, 3, patch, patch)
        plain["pos_embed"] = torch.zeros(1, (224 // patch) ** 2 + 1, 384)
        return plain
    if kind == "mae":
        state = model("base", 0).state_dict()
        plain = {n: t for n, t in state.items() if ".ls" not in n and n != "mask_token"}
        plain["patch_embed.proj.weight"] = torch.zeros(768, 3, 16, 16)
        plain["mask_token"] = torch.zeros(1, 1, 512)
        return plain | {"decoder_embed.weight": torch.zeros(512, 768)}
    if kind == "dinov3":
        del state["pos_embed"]
        state["patch_embed.proj.weight"] = torch.zeros(384, 3, 16, 16)
        return state | {
            "storage_tokens": torch.zeros(1, 4, 384),
            "rope_embed.periods": torch.zeros(16),
        }
    if kind == "resnet":
        return {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(1000)}
    return {}


@pytest.mark.parametrize(
    "kind, words",
    [
        ("dino-16", r"missing blocks\.\*\.ls1\.gamma \(12 times\).*\(384, 3, 16, 16\)"),
        ("dino-8", r"missing blocks\.\*\.ls1\.gamma \(12 times\).*\(384, 3, 8, 8\)"),
        ("mae", r"extra decoder_embed\.weight.*\(768, 3, 16, 16\)"),
        ("dinov3", r"missing pos_embed; extra storage_tokens, rope_embed\.periods; .*16, 16\)"),
        ("resnet", r"patch_embed\.proj\.weight.*is missing among its 2 tensors \(conv1\.weight"),
        ("empty", r"is missing among its 0 tensors"),
    ],
)
def test_other_models(tmp_path, kind, words):
    torch.save(other_model(kind), tmp_path / "other.pth")
    refused(tmp_path, tmp_path / "other.pth", words)


def test_not_even_tensors(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    refused(tmp_path, tmp_path / "list.pth", "0 tensors")
    state = tiny_state(**{"norm.bias": torch.ones(64, dtype=torch.int8)})
    torch.save(state, tmp_path / "int8.pth")
    refused(tmp_path, tmp_path / "int8.pth", r"norm\.bias as torch\.int8")
    save_file(state, tmp_path / "int8.safetensors")
    refused(tmp_path, tmp_path / "int8.safetensors", r"norm\.bias as I8")
    refused(tmp_path, tmp_path / "absent.pth", "neither a file nor a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path, tmp_path / "empty", r"holds none of model\.safetensors")


def test_broken_indices(tmp_path):
    folder = publish(tmp_path / "in", "huggingface-sharded", "tiny", 0)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    good = dict(index["weight_map"])

    def refuse(weight_map, words):
        path.write_text(json.dumps({"weight_map": weight_map}))
        refused(tmp_path, folder, words)

    swapped = "model-2-of-2.safetensors"
    first = min(name for name, shard in good.items() if shard != swapped)
    refuse(good | {first: swapped}, "disagree about where")
    refuse(good | {first: "../model.safetensors"}, "outside its own folder")
    refuse(good | {first: "model-3.safetensors"}, "neither a file nor a folder")
    path.write_text("{}")
    refused(tmp_path, folder, "no index of shards")


def test_config_of_another_model(tmp_path):
    folder = publish(tmp_path / "in", "huggingface", "tiny", 0)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
    refused(tmp_path, folder, "num_attention_heads = 4, DINOv2 has 2")


def test_command_line(tmp_path):
    def run(*options):
        command = [sys.executable, "-m", "weight_conversion.convert", *options]
        root = Path(__file__).parents[2]
        return subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)

    source = publish(tmp_path, "meta", "tiny", 0)
    done = run(f"--input={source}", f"--output={tmp_path / 'out'}", "--dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dtype"] == "bfloat16"
    failed = run(f"--input={tmp_path / 'absent.pth'}", f"--output={tmp_path / 'no'}")
    assert failed.returncode == 2 and failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
