"""The record of a run's config in its workdir, and what may change when the run is continued."""

import json
from pathlib import Path
from typing import Any

import ml_collections

from lagseg_jax.config.validate import check_config, flat_fields
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_json

# What the parameters in a checkpoint depend on; everything else may change between restarts.
FIXED = (
    "data.image_size",
    "data.clip_percentiles",
    "encoder.variant",
    "encoder.registers",
    "encoder.lora_rank",
    "encoder.lora_blocks",
    "fusion.blocks",
    "fusion.learned",
    "decoder.scales",
    "decoder.widths",
    "decoder.image_injection",
    "decoder.image_path",
)


def has_checkpoints(workdir: Path) -> bool:
    """Whether training has got as far as its first checkpoint in this folder."""
    return any(p.name.isdigit() for p in (workdir / "checkpoints").glob("*"))


def write_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Records the config of a run; a run with checkpoints must not contradict them.

    Raises:
        InputError: a field that the checkpoints depend on has changed.
    """
    path = workdir / "config.json"
    if has_checkpoints(workdir):
        before, now = flat_fields(read_config(workdir)), flat_fields(config)
        for field in FIXED:
            old, new = before[field], now[field]
            if old != new:
                raise InputError(
                    f"config.{field} is {new!r}, but {path} says that this run was trained with "
                    f"{old!r}, expected the same value or another --workdir"
                )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, config.to_dict())


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The config of the run in this folder.

    Raises:
        InputError: the folder is not a run, or its config was edited to what cannot work.
    """
    path = Path(workdir) / "config.json"
    try:
        content = json.loads(path.read_text("utf-8"), object_hook=_with_tuples)
        config = ml_collections.ConfigDict(content)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}), expected the record of a training run"
        ) from None
    try:
        check_config(config)
    except InputError as error:
        raise InputError(f"{path} is not the record of a training run: {error}") from None
    return config


def _with_tuples(content: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
