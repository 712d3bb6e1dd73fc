"""Parameters of an encoder: read from converted weights onto the devices, or drawn at random.

A folder of converted weights holds card.json and encoder.safetensors. `weight_conversion` writes it
once; nothing here needs PyTorch or unpickles. The card says what the tensors are and carries the
SHA-256 of the tensor file, by which damage shows, and that of the encoder, which is its identity.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError, safe_open

from lagseg_jax.config.choices import PATCH
from lagseg_jax.model.encoder_spec import EncoderSpec, conversion_command
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import file_sha256, read_json

CARD, TENSORS = "card.json", "encoder.safetensors"


def random_params(spec: EncoderSpec, seed: int, dtype: str | jnp.dtype) -> dict:
    """Untrained parameters, kernels in `dtype`: normal (0.02, cut at 2 sigma), scales 1, biases 0.

    Drawn by NumPy, so that a seed gives the same frozen encoder on every kind of device.
    """
    generator, flat = np.random.default_rng(seed), {}
    for name, leaf in param_structs(spec, dtype).items():
        kind = name.rpartition("/")[2]
        if kind == "bias":
            values = np.zeros(leaf.shape, leaf.dtype)
        elif kind.startswith("scale"):
            values = np.ones(leaf.shape, leaf.dtype)
        else:
            values = generator.standard_normal(leaf.shape, np.float32)
            values = (0.02 * values.clip(-2, 2, out=values)).astype(leaf.dtype)
        flat[name] = jax.device_put(values)
    return unflatten_dict(flat, sep="/")


def param_structs(
    spec: EncoderSpec, dtype: str | jnp.dtype = "float32"
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of every parameter, names joined with "/", in alphabetical order.

    Written out: to ask Flax for them takes a quarter of a second at every start.
    """
    width, depth, compute = spec.width, spec.depth, jnp.dtype(dtype)
    linear = {
        "patch_embedding": (PATCH * PATCH * 3, width),
        "blocks/qkv": (depth, width, 3 * width),
        "blocks/proj": (depth, width, width),
        "blocks/fc1": (depth, width, spec.hidden * (2 if spec.mlp == "swiglu" else 1)),
        "blocks/fc2": (depth, spec.hidden, width),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "class_token": (width,),
        "position_embedding": (spec.grid, spec.grid, width),
        **{f"{name}/kernel": shape for name, shape in linear.items()},
        **{f"{name}/bias": (*shape[:-2], shape[-1]) for name, shape in linear.items()},
        **{f"norm/{kind}": (width,) for kind in ("scale", "bias")},
        **{
            f"blocks/{norm}/{k}": (depth, width)
            for norm in ("norm1", "norm2")
            for k in ("scale", "bias")
        },
        **{f"blocks/{scale}": (depth, width) for scale in ("scale1", "scale2")},
    }
    if spec.registers:
        shapes["register_tokens"] = (spec.registers, width)
    return {
        name: jax.ShapeDtypeStruct(shape, compute if name.endswith("kernel") else jnp.float32)
        for name, shape in sorted(shapes.items())
    }


def param_shapes(spec: EncoderSpec) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, names joined with "/"."""
    return {name: leaf.shape for name, leaf in param_structs(spec).items()}


def load_params(
    folder: str | Path,
    dtype: str | jnp.dtype,
    put: Callable[[np.ndarray], jax.Array] = jax.device_put,
    expected: tuple[str, int] | None = None,
    verify: bool = True,
) -> tuple[EncoderSpec, dict, str]:
    """Parameters straight onto the devices, leaf by leaf, kernels in the compute dtype.

    The host never holds more than one leaf, already in its final dtype, plus one block of it as
    stored.

    Args:
        folder: written by `weight_conversion`.
        dtype: compute dtype, float32 or bfloat16.
        put: places one NumPy leaf on the devices.
        expected: (variant, registers) that the caller is set up for; None takes any.
        verify: compare the SHA-256 of the tensor file with the card (one extra read).

    Returns:
        Spec, parameter tree, and the encoder's SHA-256 (`encoder_hash`).

    Raises:
        InputError: no converted weights there, another variant than expected, a damaged file, or
            missing, extra or misshaped tensors.
    """
    folder = Path(folder)
    card = read_card(folder, expected)
    spec, path = spec_of(card), folder / TENSORS
    if verify and (found := file_sha256(path)) != card["sha256"]:
        raise InputError(
            f"{path} is damaged or not the file its card describes: SHA-256 {found} found, "
            f"{card['sha256']} expected."
        )
    try:
        flat = {name: put(leaf) for name, leaf in _read_leaves(path, spec, dtype)}
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read as a safetensors file: {error}.") from None
    return spec, unflatten_dict(flat, sep="/"), card["encoder_sha256"]


def _read_leaves(
    path: Path, spec: EncoderSpec, dtype: str | jnp.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of every parameter, after a look at the shapes of all."""
    structs = param_structs(spec, dtype)
    with safe_open(path, framework="numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    if problem := mismatch(shapes, {name: s.shape for name, s in structs.items()}):
        raise InputError(f"{path} does not fit {_title(spec.variant, spec.registers)}: {problem}.")
    for name, struct in structs.items():
        yield name, _read_leaf(path, name, struct)


def _read_leaf(path: Path, name: str, like: jax.ShapeDtypeStruct) -> np.ndarray:
    """One leaf in the dtype of `like`, cast block by block."""
    leaf = np.empty(like.shape, like.dtype)
    # Opened anew for every leaf: the pages of the previous one leave our memory.
    with safe_open(path, framework="numpy") as file:
        stored = file.get_slice(name)
        for block in range(len(leaf)):
            leaf[block] = stored[block : block + 1][0]
    return leaf


def encoder_hash(tensors_sha256: str, spec: EncoderSpec) -> str:
    """Identity of an encoder: SHA-256 (hexadecimal) over its tensors and its rules.

    The same tensors give other tokens by another rule of position-embedding interpolation, which
    says whether it antialiases, or another grid.

    Args:
        tensors_sha256: hash of all tensors, such as that of their file.
        spec: of the encoder.
    """
    rules = {"grid": spec.grid, "interpolation": spec.interpolation}
    content = json.dumps([tensors_sha256, rules], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def spec_of(card: Mapping[str, Any]) -> EncoderSpec:
    """The encoder that a card describes."""
    return EncoderSpec(*(card[key] for key in ("variant", "registers", "interpolation", "grid")))


def read_card(folder: str | Path, expected: tuple[str, int] | None = None) -> dict:
    """The card of converted weights.

    Its `encoder_sha256` is computed anew, so that it is that of the rules which are used.

    Args:
        folder: written by `weight_conversion`.
        expected: (variant, registers) of the encoder that is looked for; None if it could be any.

    Raises:
        InputError: the folder holds no converted weights or those of another encoder, or its card
            is unreadable.
    """
    folder = Path(folder)
    for name in (CARD, TENSORS):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} holds no converted encoder weights ({name} not found); "
                f"{conversion_command(*expected or ('base', 0), folder)} fetches and converts them."
            )
    card = read_json(folder / CARD, "a card written by weight_conversion")
    try:
        sha256, spec = str(card["sha256"]), spec_of(card)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / CARD} is not a card written by weight_conversion: {error!r}."
        ) from None
    if expected is not None and (spec.variant, spec.registers) != tuple(expected):
        raise InputError(
            f"{folder} holds the weights of {_title(spec.variant, spec.registers)}, "
            f"but {_title(*expected)} was asked for; {conversion_command(*expected)} fetches those."
        )
    return card | {"sha256": sha256, "encoder_sha256": encoder_hash(sha256, spec)}


def mismatch(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Missing, extra and misshaped tensors in words, those of all blocks as one; "" if none."""
    wrong = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    groups = {
        "missing": [name for name in expected if name not in found],
        "extra": [name for name in found if name not in expected],
        "wrong shape": wrong,
    }
    return "; ".join(f"{kind} {_listed(items)}" for kind, items in groups.items() if items)


def _listed(items: list[str], most: int = 8) -> str:
    counts = Counter(re.sub(r"\.\d+\.", ".*.", item) for item in items)
    texts = [item if n == 1 else f"{item} ({n} times)" for item, n in counts.items()]
    more = [f"and {len(texts) - most} more"] if len(texts) > most else []
    return ", ".join(texts[:most] + more)


def _title(variant: str, registers: int) -> str:
    return f"{variant} with {registers} registers" if registers else f"{variant} without registers"
