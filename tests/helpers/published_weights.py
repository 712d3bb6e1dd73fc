"""The same random encoder as each publisher would give it away."""

import functools
import json

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file

import dinov2_torch as reference


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


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}
