"""Writes a folder of converted weights, tensor by tensor: encoder.safetensors and its card."""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.weights import CARD, TENSORS, encoder_hash, param_structs
from lagseg_jax.runtime.files import write_atomically, written_atomically

Parts = Callable[[str], Iterable[np.ndarray]]
_STORED = {"float32": "F32", "bfloat16": "BF16"}  # numpy's names -> safetensors'


def write_encoder(
    folder: str | Path, spec: EncoderSpec, dtype: str, leaf_parts: Parts, card: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes encoder.safetensors and, last, card.json; both appear complete or not at all.

    Args:
        folder: made if absent.
        spec: of the encoder.
        dtype: of the kernels in the file, "float32" or "bfloat16"; all else is float32.
        leaf_parts: name of a parameter -> arrays whose bytes in sequence are the leaf, one per
            block for stacked leaves.
        card: further entries for the card.

    Returns:
        The card as written.
    """
    folder = Path(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path, structs = folder / TENSORS, param_structs(spec, dtype)
    try:
        with written_atomically(path) as temporary, open(temporary, "wb") as file:
            digest = _write_tensors(file, structs, leaf_parts)
    except BaseException:
        if made:
            folder.rmdir()
        raise
    written = {
        "variant": spec.variant,
        "registers": spec.registers,
        "interpolation": spec.interpolation,
        "grid": spec.grid,
        "dtype": dtype,
        "parameters": sum(leaf.size for leaf in structs.values()),
        "sha256": digest,
        "encoder_sha256": encoder_hash(digest, spec),
        **card,
    }
    write_atomically(folder / CARD, json.dumps(written, indent=2) + "\n")
    return written


def _write_tensors(
    file: BinaryIO, structs: Mapping[str, jax.ShapeDtypeStruct], leaf_parts: Parts
) -> str:
    """Writes a safetensors file and returns its SHA-256.

    Not by the library, whose `save_file` wants all tensors in memory: giant has 4.5 GB, where a
    conversion takes 0.6 (docs/conversion.md). The format is a JSON header and the raw bytes.
    """
    header, end = {}, 0
    for name, leaf in structs.items():
        start, end = end, end + leaf.size * leaf.dtype.itemsize
        stored = _STORED[leaf.dtype.name]
        header[name] = {"dtype": stored, "shape": leaf.shape, "data_offsets": [start, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    digest = hashlib.sha256()

    def write(data: bytes | memoryview) -> None:
        file.write(data)
        digest.update(data)

    write(struct.pack("<Q", len(head)) + head)
    for name, leaf in structs.items():
        for part in leaf_parts(name):
            write(np.ascontiguousarray(part, leaf.dtype).reshape(-1).view(np.uint8).data)
        if file.tell() != 8 + len(head) + header[name]["data_offsets"][1]:
            raise ValueError(f"parts of {name} do not make up its shape {leaf.shape}")
    return digest.hexdigest()
