"""Every publisher's file -> the same encoder, equal to PyTorch; anything else -> one sentence.

The same random weights are renamed into every format. The converted files must then be equal byte
for byte, and the encoder run from them equal to Hugging Face's models or to the plain PyTorch
module of dinov2_torch.py, once for every rule of position-embedding interpolation.
"""

import functools
import json
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
from published_weights import model, prefixed, publish
from weight_conversion.convert import convert

pytestmark = pytest.mark.usefixtures("clean_up")

FORMATS = {
    "meta": "Meta release",
    "training": "Meta training checkpoint",
    "timm": "timm",
    "huggingface": "Hugging Face",
    "huggingface-sharded": "Hugging Face",
    "huggingface-bin": "Hugging Face",
}


@pytest.fixture
def small_giant(monkeypatch):
    """Giant's gated MLP at a fraction of its size."""
    size = {"width": 96, "depth": 3, "heads": 2, "mlp": "swiglu", "hidden": 256}
    monkeypatch.setitem(VARIANTS, "giant", size)
    monkeypatch.setitem(reference.SIZES, "giant", (96, 3, 2))
    model.cache_clear()
    yield
    model.cache_clear()


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


# The wider encoder has the same rules for sizes: the one that is not square is enough.
SIZES = {"small": [(224, 224), (448, 448), (196, 280)], "base": [(196, 280)]}


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("variant", ["small", "base"])
def test_full_size_equals_our_reference(tmp_path, variant, registers):
    convert(publish(tmp_path / "in", "meta", variant, registers), tmp_path / "out")
    for size in SIZES[variant]:
        assert_equal_to_torch(tmp_path / "out", model(variant, registers), size, 2e-5)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("variant", ["small", "base"])
def test_full_size_equals_transformers(tmp_path, variant, registers):
    source = publish(tmp_path / "in", "huggingface", variant, registers)
    convert(source, tmp_path / "out")
    net = transformers_model(source)
    for size in SIZES[variant]:
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
