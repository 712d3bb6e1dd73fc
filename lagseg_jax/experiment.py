"""config -> checked config, dataset and split: what training and evaluation start from."""

import logging
from pathlib import Path

import ml_collections

from lagseg_jax.dataset import Case, detect, group_duplicates
from lagseg_jax.encoder import VARIANTS
from lagseg_jax.errors import InputError
from lagseg_jax.fusion import parse_blocks
from lagseg_jax.losses import LOSSES
from lagseg_jax.model import check_decoder, check_encoder, compute_dtype
from lagseg_jax.phantom import write_dataset
from lagseg_jax.slices import check_image_size
from lagseg_jax.split import nnunet_folds, read_split, split_by_patient, write_split
from lagseg_jax.workdir import has_checkpoints

log = logging.getLogger(__name__)

POSITIVE = ("data.cache_gb", "data.read_threads", "train.epochs", "train.batch_size")
POSITIVE += ("train.learning_rate", "train.log_every", "predict.batch_size")
NOT_NEGATIVE = ("train.warmup_steps", "train.weight_decay", "train.gradient_clip")
NOT_NEGATIVE += ("train.evaluate_every", "train.checkpoint_every", "train.patience")
NOT_NEGATIVE += ("predict.components", "data.label_value")


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuses impossible values at once, before any data or device is touched.

    Raises:
        InputError: the first field whose value cannot work, and what is expected.
    """
    check_image_size(config.data.image_size)
    check_encoder(config.encoder)
    check_decoder(config.decoder, config.data.image_size)
    parse_blocks(config.fusion.blocks, VARIANTS[config.encoder.variant]["depth"])
    for field in ("encoder.dtype", "decoder.dtype"):
        section, name = field.split(".")
        compute_dtype(f"config.{field}", config[section][name])
    if config.train.loss not in LOSSES:
        raise InputError(
            f"config.train.loss is {config.train.loss!r}, expected one of {', '.join(LOSSES)}"
        )
    low, high = config.data.clip_percentiles
    if not 0 <= low < high <= 100:
        raise InputError(
            f"config.data.clip_percentiles is {(low, high)}, expected 0 <= low < high <= 100"
        )
    if not 0 < config.predict.threshold < 1:
        raise InputError(f"config.predict.threshold is {config.predict.threshold}, expected 0..1")
    for fields, smallest in ((POSITIVE, "above 0"), (NOT_NEGATIVE, "0 or more")):
        for field in fields:
            section, name = field.split(".")
            value = config[section][name]
            if value < 0 or (value == 0 and fields is POSITIVE):
                raise InputError(f"config.{field} is {value}, expected {smallest}")
    for name, value in config.augment.items():
        if value < 0:
            raise InputError(f"config.augment.{name} is {value}, expected 0 or more")
    if not config.data.root:
        raise InputError(
            "config.data.root is empty, expected the folder of a dataset "
            "(--config.data.root=FOLDER), or 'phantom' for synthetic volumes"
        )


def load_split(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, list[Case]]:
    """Finds the cases of the dataset and who is in which part; the first start writes it down.

    Args:
        config: `config.data` says where and how.
        workdir: keeps `splits.json`, which a run with checkpoints obeys, and the phantom.

    Returns:
        {"train": cases, "validation": cases, "test": cases}

    Raises:
        InputError: the dataset cannot be used, or has changed since the split was made.
    """
    data = config.data
    root = write_dataset(workdir / "phantom") if data.root == "phantom" else Path(data.root)
    dataset = detect(root)
    path = workdir / "splits.json"
    log.info(
        "data: %s at %s, %d labelled cases, %d without label",
        *(dataset.layout, dataset.root, len(dataset.cases), dataset.unlabelled),
    )
    if path.exists() and has_checkpoints(workdir):
        split = read_split(path, dataset.cases)
    else:
        cases = group_duplicates(dataset.cases)
        if data.fold >= 0:
            split = nnunet_folds(cases, data.fold)
        else:
            counts = tuple(data.counts) or None
            split = split_by_patient(cases, tuple(data.fractions), data.split_seed, counts)
        workdir.mkdir(parents=True, exist_ok=True)
        write_split(path, split)
    by_name = {case.name: case for case in dataset.cases}
    sizes = ", ".join(f"{part} {len(names)}" for part, names in split.items())
    log.info("split by patient: %s cases (%s)", sizes, path)
    return {part: [by_name[name] for name in names] for part, names in split.items()}
