"""published file or folder -> shapes of its tensors, and each tensor as float32 when asked for.

Nothing is unpickled beyond tensors (`weights_only`), and tensors stay on disk (memory-mapped)
until they are read.
"""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.extras import install_command
from lagseg_jax.runtime.files import read_json

# What Hugging Face calls its files, in order of preference.
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_MOST_MAPPED = 64 * 2**20  # bytes of a .pth file that are kept in memory


@dataclass(frozen=True)
class Tensors:
    """Tensors on disk.

    Attributes:
        shapes: name -> shape.
        read: name -> the tensor, float32.
        files: all files they lie in.
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    files: list[Path]


def open_tensors(path: Path) -> Tensors:
    """Tensors of a .pth, .bin or .safetensors file, or of a Hugging Face folder.

    Raises:
        InputError: not found, no known file, truncated, or anything but plain tensors inside.
    """
    if path.is_dir():
        present = [path / name for name in FOLDER_FILES if (path / name).is_file()]
        if not present:
            raise InputError(f"{path} holds none of {', '.join(FOLDER_FILES)}.")
        path = present[0]
    if not path.is_file():
        raise InputError(f"{path} is neither a file nor a folder.")
    if path.suffix == ".json":
        return _open_shards(path)
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_torch(path)


def shards_of(index: Path) -> dict[str, str]:
    """Tensor -> file beside the index that holds it.

    Raises:
        InputError: no index, or one that names files elsewhere.
    """
    content = read_json(index, "an index of shards")
    try:
        shard_of = dict(content["weight_map"])
        outside = [name for name in shard_of.values() if Path(name).name != name]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index} is no index of shards: {error!r}.") from None
    if outside:
        raise InputError(f"{index} names {outside[0]}, a file outside its own folder.")
    return shard_of


def _open_shards(index: Path) -> Tensors:
    shard_of = shards_of(index)
    shards = {name: open_tensors(index.parent / name) for name in sorted(set(shard_of.values()))}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shard in shards.items():
        wrong = {tensor for tensor in shard.shapes if shard_of.get(tensor) != name}
        wrong |= {t for t, file in shard_of.items() if file == name and t not in shard.shapes}
        if wrong:
            raise InputError(f"{index} and {name} disagree about where {min(wrong)} is stored.")
        shapes |= shard.shapes
    files = [index] + [file for shard in shards.values() for file in shard.files]
    return Tensors(shapes, lambda tensor: shards[shard_of[tensor]].read(tensor), files)


def _open_safetensors(path: Path) -> Tensors:
    shapes = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():
                tensor = file.get_slice(name)
                shapes[name] = tuple(tensor.get_shape())
                if tensor.get_dtype() not in ("F32", "F16", "BF16"):
                    raise InputError(f"{path} stores {name} as {tensor.get_dtype()}, not as float.")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is truncated or no safetensors file ({one_line(error)})."
        ) from None

    def read(name: str) -> np.ndarray:
        # Opened anew: the pages of tensors read before leave our memory.
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor(name).astype(np.float32, copy=False)

    return Tensors(shapes, read, [path])


def _open_torch(path: Path) -> Tensors:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path} needs PyTorch to be read: {install_command('conversion')}."
        ) from None
    # Files of before PyTorch 1.6 are no zip archives and cannot be memory-mapped.
    mapped = zipfile.is_zipfile(path)

    def load() -> dict[str, torch.Tensor]:
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        return dict(_flatten(tree))

    try:
        tensors = load()
    except Exception as error:  # whatever a broken or hostile file makes the reader raise
        raise InputError(
            f"{path} is truncated, no PyTorch file, or holds more than tensors; nothing of it was "
            f"executed ({one_line(error)})."
        ) from None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    touched = 0

    def read(name: str) -> np.ndarray:
        nonlocal tensors, touched
        if mapped and touched > _MOST_MAPPED:  # map anew, so that pages read leave our memory
            tensors, touched = load(), 0
        tensor = tensors[name]
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise InputError(f"{path} stores {name} as {tensor.dtype}, not as plain float.")
        touched += tensor.nbytes
        return tensor.detach().float().numpy()

    return Tensors(shapes, read, [path])


def _flatten(tree: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dictionaries -> (names joined with ".", tensor); anything else is left out."""
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from _flatten(branch, f"{prefix}{key}.")
    elif hasattr(tree, "detach"):
        yield prefix.removesuffix("."), tree


def one_line(error: BaseException) -> str:
    """The first line of what an exception says, or its kind."""
    lines = str(error).split(". ")[0].strip().splitlines()
    return lines[0] if lines else type(error).__name__
