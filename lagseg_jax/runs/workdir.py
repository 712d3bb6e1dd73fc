"""The record of a run's config in its workdir, and what may change when the run is continued."""

import logging
from pathlib import Path
from typing import Any

import ml_collections
from ml_collections.config_dict import FieldReference

from lagseg_jax.config.choices import ONE_OR_SEVERAL
from lagseg_jax.config.validate import check_config, flat_fields
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json, write_json

log = logging.getLogger(__name__)

# What the parameters in a checkpoint depend on; everything else may change between restarts.
FIXED = (
    "data.image_size",
    "data.clip_percentiles",
    "data.window",
    "data.plane",
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
# What else made the run, so that its record stays true: an evaluation takes them from there.
MADE_BY: tuple[str, ...] = (
    "seed",
    "data.cases",
    "data.exclude",
    "data.balance",
    "data.label_value",
    "data.label_threshold",
    "data.patient",
    "data.split",
    "data.fold",
    "data.fractions",
    "data.counts",
    "data.split_seed",
    "data.train_patients",
    "data.train_fraction",
    "train.init_from",
)
# Where things lie, and how they are read: an evaluation may name others.
PLACES: tuple[str, ...] = (
    "data.root",
    "data.images",
    "data.labels",
    "data.orientation",
    "data.max_gb",
    "data.cache_dir",
    "data.cache_gb",
    "data.read_threads",
    "data.allow",
    "encoder.weights",
)
CONFIG = "config.json"
OWN_SPLIT = "WORKDIR/splits.json"  # `config.data.split` where that file was there before the run


def has_checkpoints(workdir: Path) -> bool:
    """Whether training has got as far as its first checkpoint in this folder."""
    return any(p.name.isdigit() for p in (workdir / "checkpoints").glob("*"))


def check_continues(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Refuses a config that the run in this folder, if it has checkpoints, cannot go on with.

    Raises:
        InputError: a field that the checkpoints depend on has changed, or a folder whose name Orbax
            cannot write to.
    """
    try:
        str(workdir.absolute()).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"--workdir is {workdir.absolute()}, expected a path in UTF-8, for the checkpoints"
        ) from None
    if not has_checkpoints(workdir):
        return
    before, now = flat_fields(read_config(workdir)), flat_fields(config)
    if before["data.split"] == OWN_SPLIT and not now["data.split"]:
        now["data.split"] = OWN_SPLIT  # the file is still there, or its lack is an error
    _refuse_changes(workdir, before, now, FIXED + MADE_BY)


def _refuse_changes(
    workdir: Path, before: dict[str, Any], now: dict[str, Any], fields: tuple[str, ...]
) -> None:
    for field in fields:
        if before[field] != now[field]:
            raise InputError(
                f"config.{field} is {now[field]!r}, but {workdir / CONFIG} says that this run was "
                f"trained with {before[field]!r}, expected the same value or another --workdir"
            )


def evaluation_config(
    workdir: Path, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """The config of an evaluation: that of the training, with what an evaluation may change.

    Args:
        workdir: of the run.
        config: as given; of it `predict.*` counts, and where things lie, unless that is empty.

    Raises:
        InputError: the folder is not a run, or `config` is that of another model.
    """
    trained = read_config(workdir)
    before, now = flat_fields(trained), flat_fields(config)
    if has_checkpoints(workdir):
        _refuse_changes(workdir, before, now, FIXED)
    unused = []
    for field, value in now.items():
        section, _, name = field.rpartition(".")
        if section == "predict" or (field in PLACES and value not in ("", (), before[field])):
            trained[section][name] = value
        elif field not in PLACES and value != before[field]:
            unused.append(field)
    if unused:
        log.warning(
            "an evaluation takes the training's values of %s, not those given now",
            ", ".join(f"config.{field}" for field in unused),
        )
    return trained


def write_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Records the config of a training, once it is accepted: see `check_continues`."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / CONFIG, config.to_dict())


def record_predict(workdir: Path, predict: ml_collections.ConfigDict) -> None:
    """Makes the settings of an evaluation those of the run; nothing else of its config changes."""
    config = read_config(workdir)
    if config.predict.to_dict() != predict.to_dict():
        before, now = config.predict.to_dict(), predict.to_dict()
        config.predict = predict
        write_config(workdir, config)
        changed = [f"predict.{n} {before[n]} -> {now[n]}" for n in now if before[n] != now[n]]
        log.info("the run predicts with these from now on, too: %s", ", ".join(changed))


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The config of the run in this folder.

    Raises:
        InputError: the folder is not a run, or its config was edited to what cannot work.
    """
    path = Path(workdir) / CONFIG
    content = read_json(path, "the record of a training run")
    try:
        config = ml_collections.ConfigDict(_with_any_type(_with_tuples(content)))
        check_config(config)
    except InputError as error:
        raise InputError(f"{path} is not the record of a training run: {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}), expected the record of a training run"
        ) from None
    return config


def _with_tuples(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _with_tuples(value) for key, value in content.items()}
    return tuple(content) if isinstance(content, list) else content


def _with_any_type(content: Any) -> Any:
    """The same, its fields that may be one value or several able to become the other."""
    for section, name in (field.split(".") for field in ONE_OR_SEVERAL):
        if isinstance(content, dict) and name in (content.get(section) or ()):
            any_type = FieldReference(content[section][name], field_type=object)
            content[section][name] = any_type
    return content
