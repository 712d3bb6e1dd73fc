"""Converts published DINOv2 weights to card.json and encoder.safetensors, in little memory.

    python -m weight_conversion.convert --input=facebook/dinov2-base --output=FOLDER
    python -m weight_conversion.convert --input=FILE_OR_FOLDER --output=FOLDER [--dtype=bfloat16]

Variant, registers and publisher are recognised from the tensors. Tensors are read one at a time
and written as soon as they are in our form.
"""

import json
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import exit_status, log_to_console, say
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import file_sha256, read_json
from weight_conversion.formats import recognise
from weight_conversion.hub import fetch, is_hub_name
from weight_conversion.read import open_tensors
from weight_conversion.write import write_encoder


def convert(
    source: str | Path, folder: str | Path, dtype: str = "float32", revision: str | None = None
) -> dict:
    """Convert one encoder.

    Args:
        source: .pth, .bin or .safetensors file, Hugging Face folder, or the name of a model on the
            Hugging Face hub, which is fetched from there (`hub.fetch`).
        folder: to write to, made if absent.
        dtype: of the kernels in the result, "float32" or "bfloat16".
        revision: branch, tag or commit of the model on the hub; None is its main branch.

    Returns:
        The card, as written to FOLDER/card.json.

    Raises:
        InputError: the source is not exactly one published DINOv2 encoder, cannot be fetched, or
            the folder cannot be written; nothing is left behind.
    """
    name, folder = str(source), Path(folder)
    source, origin = _fetched(name, revision)
    tensors = open_tensors(source)
    encoder = recognise(tensors.shapes, name)
    if source.is_dir():
        _check_config(source / "config.json", encoder.spec)

    def rows(name: str) -> Iterator[np.ndarray]:
        for names in encoder.parts[name]:
            arrays = [tensors.read(tensor) for tensor in names]
            for tensor, array in zip(names, arrays):
                if not np.isfinite(array).all():
                    raise InputError(f"{name} holds NaN or infinite values in {tensor}.")
            yield encoder.parameter(name, arrays)

    card = {
        "format": encoder.format,
        "ignored_tensors": encoder.ignored,
        **origin,
        "source": [
            {"file": file.name, "bytes": file.stat().st_size, "sha256": file_sha256(file)}
            for file in tensors.files
        ],
        "versions": _versions("lagseg_jax", "jax", "numpy", "safetensors", "torch"),
    }
    try:
        return write_encoder(folder, encoder.spec, dtype, rows, card)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error}.") from None


def _fetched(name: str, revision: str | None) -> tuple[Path, dict[str, Any]]:
    """Where the model of this name is now, and what the card says about a hub."""
    if is_hub_name(name):
        folder = fetch(name, revision)
        return folder, {"hub": {"model": name, "commit": folder.name}}
    if revision is not None:
        raise InputError(f"--revision is {revision}, expected none: {name} is no model of the hub.")
    return Path(name), {}


def _check_config(path: Path, spec: EncoderSpec) -> None:
    """What a Hugging Face config says and tensors cannot show must be DINOv2's."""
    if not path.is_file():
        return
    config = read_json(path, "the config beside the tensors")
    expected = {"num_attention_heads": spec.heads, "layer_norm_eps": 1e-6, "hidden_act": "gelu"}
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise InputError(f"{path} has {key} = {config[key]!r}, DINOv2 has {value!r}.")


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def main(arguments: list[str] | None = None) -> int:
    """Converts and prints the card; returns the exit status."""
    parser = command_parser("convert", "Variant, registers and publisher are recognised.")
    add = parser.add_argument_group("weights").add_argument
    add("--input", required=True, help="published file, folder, or model of the Hugging Face hub")
    add("--output", required=True, help="folder to write")
    about = "of the result (default: float32); bfloat16 halves its size"
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help=about)
    add("--revision", help="branch, tag or commit of the model on the hub (default: main)")
    options = parser.parse_args(arguments)
    log_to_console()
    card = convert(options.input, options.output, options.dtype, options.revision)
    say(json.dumps(card, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
