"""config <-> workdir/config.json, and what may change when a run is continued."""

import json
from pathlib import Path

import ml_collections

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
# Of these, what the records of older runs lack, and what these runs did.
ADDED = {"encoder.lora_rank": 0, "encoder.lora_blocks": 0}


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
        before, now = read_config(workdir), ml_collections.FrozenConfigDict(config)
        for field in FIXED:
            old, new = _get(before, field), _get(now, field)
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
        InputError: the folder is not a run.
    """
    path = Path(workdir) / "config.json"
    try:
        content = json.loads(path.read_text())
        for field in FIXED:  # other programs write a config.json, too
            if field in ADDED:
                section, name = field.split(".")
                content[section].setdefault(name, ADDED[field])
            _get(content, field)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}), expected the record of a training run"
        ) from None
    tuples = {
        section: {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        if isinstance(fields, dict)
        else fields
        for section, fields in content.items()
    }
    return ml_collections.ConfigDict(tuples)


def _get(config, field: str):
    for name in field.split("."):
        config = config[name]
    return config
