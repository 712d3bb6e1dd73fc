"""Writes the folder that the PyTorch worker opens: a case's weights, inputs and settings.

encoder/{config.json, model.safetensors}   for `Dinov2Model.from_pretrained` of Hugging Face
head.npz                                   names joined with "/", layouts as in Flax
inputs.npz, volume.nii.gz                  image, mask, volume; the volume as a file
case.json                                  what else the config says
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from benchmarks.speed.cases import Case
from benchmarks.speed.problem import SPACING, Problem
from lagseg_jax.config.choices import PATCH
from lagseg_jax.model.encoder import EncoderSpec


def write_problem(problem: Problem, case: Case, folder: Path) -> None:
    """Writes everything; encoder kernels in the compute dtype, all else as it is."""
    spec, config = problem.encoder.spec, problem.config
    (folder / "encoder").mkdir(parents=True)
    tensors = {name: np.ascontiguousarray(t) for name, t in hub_tensors(problem)}
    save_file(tensors, folder / "encoder" / "model.safetensors", metadata={"format": "pt"})
    (folder / "encoder" / "config.json").write_text(json.dumps(hub_config(spec)))
    np.savez(folder / "head.npz", **flatten_dict(problem.head_params, sep="/"))
    arrays = {name: problem.batch[name] for name in ("image", "mask")}
    np.savez(folder / "inputs.npz", volume=problem.volume, **arrays)
    write_volume(problem.volume, folder)
    facts = dataclasses.asdict(case) | {
        "width": spec.width,
        "scales": config.decoder.scales,
        "widths": config.decoder.widths,
        "image_path": config.decoder.image_path,
        "loss": config.train.loss,
        "learning_rate": config.train.learning_rate,
        "weight_decay": config.train.weight_decay,
        "gradient_clip": config.train.gradient_clip,
        "percentiles": config.data.clip_percentiles,
        "threshold": config.predict.threshold,
        "components": config.predict.components,
        "spacing": SPACING,
    }
    (folder / "case.json").write_text(json.dumps(facts))


def write_volume(volume: np.ndarray, folder: Path) -> None:
    """(x, y, z) int16 -> folder/volume.nii.gz."""
    nib.save(nib.Nifti1Image(volume, np.diag([*SPACING, 1])), folder / "volume.nii.gz")


def hub_config(spec: EncoderSpec) -> dict:
    """config.json of a `Dinov2Model`."""
    return {
        "model_type": "dinov2",
        "hidden_size": spec.width,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "image_size": spec.grid * PATCH,
        "patch_size": PATCH,
        "use_swiglu_ffn": spec.mlp == "swiglu",
        "use_mask_token": False,
    }


def hub_tensors(problem: Problem) -> Iterator[tuple[str, np.ndarray]]:
    """The encoder's tensors under the names of the published files, in PyTorch's layouts."""
    p = {n: np.asarray(t) for n, t in flatten_dict(problem.encoder.params, sep="/").items()}
    width = problem.encoder.spec.width

    def layer(ours: str, theirs: str, block: int | tuple = ()) -> Iterator:
        weight = p.get(f"{ours}/kernel", p.get(f"{ours}/scale"))
        yield f"{theirs}.weight", weight[block].T  # of a norm it is a vector
        yield f"{theirs}.bias", p[f"{ours}/bias"][block]

    yield "embeddings.cls_token", p["class_token"].reshape(1, 1, width)
    # Our class token contains its position.
    positions = np.pad(p["position_embedding"].reshape(1, -1, width), ((0, 0), (1, 0), (0, 0)))
    yield "embeddings.position_embeddings", positions
    kernel = p["patch_embedding/kernel"].reshape(PATCH, PATCH, 3, width).transpose(3, 2, 0, 1)
    yield "embeddings.patch_embeddings.projection.weight", kernel
    yield "embeddings.patch_embeddings.projection.bias", p["patch_embedding/bias"]
    yield from layer("norm", "layernorm")
    mlp = ("weights_in", "weights_out") if problem.encoder.spec.mlp == "swiglu" else ("fc1", "fc2")
    layers = {"proj": "attention.output.dense", "fc1": f"mlp.{mlp[0]}", "fc2": f"mlp.{mlp[1]}"}
    layers |= {"norm1": "norm1", "norm2": "norm2"}
    for block in range(problem.encoder.spec.depth):
        prefix = f"encoder.layer.{block}."
        for ours, theirs in layers.items():
            yield from layer(f"blocks/{ours}", f"{prefix}{theirs}", block)
        for number in (1, 2):
            yield f"{prefix}layer_scale{number}.lambda1", p[f"blocks/scale{number}"][block]
        kernels = np.split(p["blocks/qkv/kernel"][block].T, 3)
        biases = np.split(p["blocks/qkv/bias"][block], 3)
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases):
            yield f"{prefix}attention.attention.{name}.weight", kernel
            yield f"{prefix}attention.attention.{name}.bias", bias
