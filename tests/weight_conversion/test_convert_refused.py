"""What is no DINOv2 encoder, is damaged or malicious is refused in one sentence."""

import json
import pickle
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file

import dinov2_torch as reference
from lagseg_jax.model.weights import load_params
from lagseg_jax.runtime.errors import InputError
from published_weights import model, prefixed, publish
from weight_conversion.convert import convert

pytestmark = pytest.mark.usefixtures("clean_up")


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
