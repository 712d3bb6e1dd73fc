"""config -> dataset and split: what training and evaluation start from."""

import logging
from pathlib import Path

import ml_collections

from lagseg_jax.dataset import Case, detect, group_duplicates
from lagseg_jax.phantom import write_dataset
from lagseg_jax.processes import once
from lagseg_jax.split import (
    fewer_training_patients,
    nnunet_folds,
    read_split,
    split_by_patient,
    write_split,
)
from lagseg_jax.workdir import has_checkpoints

log = logging.getLogger(__name__)


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
    root = Path(data.root)
    if data.root == "phantom":
        root = workdir / "phantom"
        once(write_dataset, root)
    dataset = detect(root)
    path = workdir / "splits.json"
    log.info(
        "data: %s at %s, %d labelled cases, %d without label",
        *(dataset.layout, dataset.root, len(dataset.cases), dataset.unlabelled),
    )
    once(_write_split, data, dataset.cases, path)
    split = read_split(path, dataset.cases)
    by_name = {case.name: case for case in dataset.cases}
    sizes = ", ".join(f"{part} {len(names)}" for part, names in split.items())
    log.info("split by patient: %s cases (%s)", sizes, path)
    return {part: [by_name[name] for name in names] for part, names in split.items()}


def _write_split(data: ml_collections.ConfigDict, cases: list[Case], path: Path) -> None:
    """Unless the run has checkpoints, which bind it to the split that is there."""
    if path.exists() and has_checkpoints(path.parent):
        return
    cases = group_duplicates(cases)
    if data.fold >= 0:
        split = nnunet_folds(cases, data.fold)
    else:
        counts = tuple(data.counts) or None
        split = split_by_patient(cases, tuple(data.fractions), data.split_seed, counts)
    patients = (data.train_patients, data.train_fraction)
    split = fewer_training_patients(split, cases, *patients, data.split_seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_split(path, split)
