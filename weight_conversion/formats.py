"""names and shapes of the tensors in a file -> which DINOv2 it is, and what becomes of each.

A parameter of the encoder is made of one or more tensors of the file: stacked ones of one row per
block, queries, keys and values of three tensors where a publisher stores them apart.
Letters: D width, R registers, g grid of the position embedding, I/O channels in and out.
"""

import math
import re
from dataclasses import dataclass

import numpy as np

from lagseg_jax.config.choices import PATCH, VARIANTS
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.weights import mismatch, param_shapes
from lagseg_jax.runtime.errors import InputError

META, TRAINING = "Meta release", "Meta training checkpoint"
HUGGING_FACE, TIMM = "Hugging Face", "timm"
IN_MEMORY = "Hugging Face, in memory"

# Our layers and parameters -> the tensors of each publisher; {} is the block.
_META = {
    "class_token": ["cls_token", "pos_embed"],
    "position_embedding": ["pos_embed"],
    "register_tokens": ["register_tokens"],
    "patch_embedding": ["patch_embed.proj"],
    "norm": ["norm"],
    "blocks/norm1": ["blocks.{}.norm1"],
    "blocks/qkv": ["blocks.{}.attn.qkv"],
    "blocks/proj": ["blocks.{}.attn.proj"],
    "blocks/scale1": ["blocks.{}.ls1.gamma"],
    "blocks/norm2": ["blocks.{}.norm2"],
    "blocks/fc1": ["blocks.{}.mlp.fc1"],
    "blocks/fc2": ["blocks.{}.mlp.fc2"],
    "blocks/scale2": ["blocks.{}.ls2.gamma"],
}
_HUGGING_FACE = {
    "class_token": ["embeddings.cls_token", "embeddings.position_embeddings"],
    "position_embedding": ["embeddings.position_embeddings"],
    "register_tokens": ["embeddings.register_tokens"],
    "patch_embedding": ["embeddings.patch_embeddings.projection"],
    "norm": ["layernorm"],
    "blocks/norm1": ["encoder.layer.{}.norm1"],
    "blocks/qkv": [
        f"encoder.layer.{{}}.attention.attention.{part}" for part in ("query", "key", "value")
    ],
    "blocks/proj": ["encoder.layer.{}.attention.output.dense"],
    "blocks/scale1": ["encoder.layer.{}.layer_scale1.lambda1"],
    "blocks/norm2": ["encoder.layer.{}.norm2"],
    "blocks/fc1": ["encoder.layer.{}.mlp.fc1"],
    "blocks/fc2": ["encoder.layer.{}.mlp.fc2"],
    "blocks/scale2": ["encoder.layer.{}.layer_scale2.lambda1"],
}
# What transformers 5 calls them in memory; its save_pretrained still writes the names above.
_TRANSFORMERS_5 = _HUGGING_FACE | {
    "blocks/qkv": [f"encoder.layer.{{}}.attention.{part}_proj" for part in "qkv"],
    "blocks/proj": ["encoder.layer.{}.attention.o_proj"],
}
_TIMM = _META | {"register_tokens": ["reg_token"]}
_TABLES = {META: _META, HUGGING_FACE: _HUGGING_FACE, IN_MEMORY: _TRANSFORMERS_5, TIMM: _TIMM}
# The two layers of a gated MLP (giant). All publishers store the gate before the gated half, so
# that only the names differ; timm keeps fc1 and fc2.
_GATED = {
    META: {"blocks/fc1": ["blocks.{}.mlp.w12"], "blocks/fc2": ["blocks.{}.mlp.w3"]},
    HUGGING_FACE: {
        "blocks/fc1": ["encoder.layer.{}.mlp.weights_in"],
        "blocks/fc2": ["encoder.layer.{}.mlp.weights_out"],
    },
    IN_MEMORY: {
        "blocks/fc1": [f"encoder.layer.{{}}.mlp.{part}_proj" for part in ("gate", "up")],
        "blocks/fc2": ["encoder.layer.{}.mlp.down_proj"],
    },
    TIMM: {},
}
_PATCH_EMBEDDINGS = "patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"
# What PyTorch's wrappers of modules put into names.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# What holds an encoder in a saved state or model, and what else lies beside it in a training's.
_HOLDERS = {"state_dict", "model", "teacher", "backbone", "encoder"}
_HOLDERS |= {"dinov2", "dinov2_with_registers"}
_NOT_THE_ENCODER = {"student", "optimizer", "lr_scheduler", "dino_head", "ibot_head"}
_NOT_THE_ENCODER |= {"dino_loss", "ibot_patch_loss", "koleo_loss"}
_KINDS = {"kernel": "weight", "scale": "weight", "bias": "bias"}


@dataclass(frozen=True)
class Source:
    """What a file holds.

    Attributes:
        spec: the encoder.
        format: publisher, for the card.
        parts: parameter name -> for each block (once where not stacked) names of its tensors.
        ignored: tensors of a training checkpoint that are not the encoder.
    """

    spec: EncoderSpec
    format: str
    parts: dict[str, list[list[str]]]
    ignored: list[str]

    def parameter(self, name: str, tensors: list[np.ndarray]) -> np.ndarray:
        """The tensors `parts[name][i]` -> that parameter, or its row i where stacked."""
        if name == "class_token":
            token, positions = (tensor.reshape(-1, self.spec.width) for tensor in tensors)
            # timm has added the class token's position to the token and dropped it.
            has_class_position = len(positions) > self.spec.grid**2
            return token[0] + positions[0] if has_class_position else token[0]
        if name == "position_embedding":
            grid, width = self.spec.grid, self.spec.width
            return tensors[0].reshape(-1, width)[-grid * grid :].reshape(grid, grid, width)
        if name == "patch_embedding/kernel":  # (D, 3, row, column)
            return tensors[0].transpose(2, 3, 1, 0).reshape(-1, self.spec.width)
        if name == "register_tokens":
            return tensors[0][0]
        return np.concatenate(tensors).T


def recognise(found: dict[str, tuple[int, ...]], path: str) -> Source:
    """Publisher and encoder from tensor names and shapes alone.

    Args:
        found: shape of every tensor.
        path: of the file or folder, for messages.

    Raises:
        InputError: not one of the encoders of `VARIANTS`, complete and without anything extra.
    """
    stored, ignored, of_teacher = _backbone(found, path)
    found = {plain: found[name] for plain, name in stored.items()}
    publisher = _publisher(found)
    names = _TABLES[publisher]
    patch_shape = found[names["patch_embedding"][0] + ".weight"]
    by_width = {size["width"]: variant for variant, size in VARIANTS.items()}
    if not patch_shape or patch_shape[0] not in by_width:
        raise InputError(
            f"{path} is no DINOv2 encoder: its patch embedding has shape {patch_shape}, where "
            f"(width, 3, {PATCH}, {PATCH}) with a width of {tuple(by_width)} is expected."
        )
    registers = 4 if names["register_tokens"][0] in found else 0
    class_position = not (publisher == TIMM and registers)
    spec = EncoderSpec(
        by_width[patch_shape[0]],
        registers,
        "size" if publisher in (HUGGING_FACE, IN_MEMORY) and not registers else None,
        _grid(found.get(names["position_embedding"][0]), class_position),
    )
    if spec.mlp == "swiglu":
        names = names | _GATED[publisher]

    parts: dict[str, list[list[str]]] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in param_shapes(spec).items():
        stacked = name.startswith("blocks/")
        for block in range(spec.depth if stacked else 1):
            tensors = [template.format(block) for template in _templates(names, name)]
            parts.setdefault(name, []).append([stored.get(tensor, tensor) for tensor in tensors])
            row = shape[1:] if stacked else shape
            expected |= _tensor_shapes(name, row, tensors, spec, class_position)
    for mask in ("mask_token", "embeddings.mask_token"):  # only used in training
        if mask in found:
            expected[mask] = (1, spec.width)
    if problem := mismatch(found, expected):
        kind = f"{spec.variant} with registers" if registers else spec.variant
        raise InputError(f"{path} is no DINOv2 encoder ({kind} is the closest): {problem}.")
    in_training = of_teacher and publisher == META
    return Source(spec, TRAINING if in_training else publisher, parts, ignored)


def _backbone(
    found: dict[str, tuple[int, ...]], path: str
) -> tuple[dict[str, str], list[str], bool]:
    """Plain names -> names in the file; names that only a training needs; whether a teacher's."""
    plain = {name: _WRAPPERS.sub("", name) for name in found}
    prefix = _prefix(list(plain.values()), path)
    stored: dict[str, str] = {}
    ignored = []
    for name, short in plain.items():
        if _NOT_THE_ENCODER & set(short.split(".")):
            ignored.append(name)
            continue
        # Blocks come in chunks, blocks.CHUNK.BLOCK., and keep their number over all chunks.
        short = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", short.removeprefix(prefix))
        if short in stored:
            raise InputError(
                f"{path} holds several tensors for the same part of the encoder: "
                f"{stored[short]} and {name}."
            )
        stored[short] = name
    return stored, ignored, "teacher" in prefix.split(".")


def _prefix(names: list[str], path: str) -> str:
    """What stands before the names of the one encoder's tensors, such as "teacher.backbone."."""
    found = {
        name.removesuffix(patches)
        for name in names
        for patches in _PATCH_EMBEDDINGS
        if name.endswith(patches)
    }
    known = sorted(p for p in found if set(p.split(".")[:-1]) <= _HOLDERS and p[-1:] in ("", "."))
    if len(known) > 1:
        raise InputError(
            f"{path} holds several encoders, under {' and '.join(p or 'no prefix' for p in known)}"
            ", one is expected; save its state_dict alone."
        )
    if not known:
        raise InputError(
            f"{path} is no DINOv2 encoder: {_PATCH_EMBEDDINGS[0]} (Meta, timm) or "
            f"{_PATCH_EMBEDDINGS[1]} (Hugging Face) is missing among its "
            f"{len(names)} tensors ({', '.join(names[:3])} ...)."
        )
    return known[0]


def _publisher(found: dict[str, tuple[int, ...]]) -> str:
    """Whose names these are."""
    if _PATCH_EMBEDDINGS[1] in found:
        in_memory = any(".attention.q_proj." in name for name in found)
        return IN_MEMORY if in_memory else HUGGING_FACE
    # Only names tell timm's files from Meta's, and Meta's always have a mask token.
    of_timm = "reg_token" in found or not found.keys() & {"mask_token", "register_tokens"}
    return TIMM if of_timm else META


def _templates(names: dict[str, list[str]], name: str) -> list[str]:
    """Our parameter -> names of its tensors."""
    layer, _, kind = name.rpartition("/")
    if kind in _KINDS:
        return [f"{tensor}.{_KINDS[kind]}" for tensor in names[layer]]
    return names[name]


def _grid(shape: tuple[int, ...] | None, class_position: bool) -> int:
    """Side g of a position embedding (1, g g (+ 1), D); the released models' where it has none."""
    if shape is None or len(shape) != 3:
        return 37
    patches = shape[1] - class_position
    side = math.isqrt(max(patches, 0))
    return side if side and side * side == patches else 37


def _tensor_shapes(
    name: str, row: tuple[int, ...], tensors: list[str], spec: EncoderSpec, class_position: bool
) -> dict[str, tuple[int, ...]]:
    """Expected shapes of the tensors that make up one parameter, or one row of it."""
    width = spec.width
    if name in ("class_token", "position_embedding"):
        positions: tuple[int, ...] = (1, spec.grid**2 + class_position, width)
        return {tensors[-1]: positions} | ({tensors[0]: (1, 1, width)} if tensors[1:] else {})
    if name == "patch_embedding/kernel":
        return {tensors[0]: (width, 3, PATCH, PATCH)}
    if name == "register_tokens":
        return {tensors[0]: (1, *row)}
    outputs = row[-1] // len(tensors)
    return {tensor: (outputs, *row[:-1]) for tensor in tensors}  # PyTorch's (O, I) or (O,)
