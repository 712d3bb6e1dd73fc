"""Binds a run to its cases: who is in which part, and that the files stay what they were."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from lagseg_jax.data.cases import Case
from lagseg_jax.data.contents import Contents, check_contents, hash_cases
from lagseg_jax.data.datasets import config_datasets, labelled, patients_of, say_datasets
from lagseg_jax.data.patients import (
    assign_patients,
    describe_patients,
    find_visits,
    group_duplicates,
    listed,
    visits_rule,
)
from lagseg_jax.data.prepare import cache_folder
from lagseg_jax.data.split import (
    Split,
    fewer_training_patients,
    nnunet_folds,
    nnunet_split,
    parse_split,
    read_content,
    split_as_told,
    split_by_patient,
    split_sha256,
    write_split,
)
from lagseg_jax.imaging.labels import LabelRule
from lagseg_jax.runs.checkpoint import Checkpoints
from lagseg_jax.runs.workdir import CONFIG, OWN_SPLIT, has_checkpoints, read_config
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import user_path
from lagseg_jax.runtime.processes import once

log = logging.getLogger(__name__)


def load_split(config: ml_collections.ConfigDict, workdir: Path) -> dict[str, list[Case]]:
    """Finds the cases of the dataset and who is in which part; the first start writes it down.

    Args:
        config: `config.data` says where and how; `config.data.split` becomes `OWN_SPLIT` where a
            splits.json lay in the workdir before the run.
        workdir: keeps `splits.json`, which a run with checkpoints obeys, and the phantom.

    Returns:
        {"train": cases, "validation": cases, "test": cases}

    Raises:
        InputError: the dataset cannot be used, or has changed since the split was made; a split
            that does not fit it, or is not that of the checkpoints.
    """
    data, path = config.data, workdir / "splits.json"
    datasets = config_datasets(data, workdir)
    say_datasets(datasets)
    if merged := LabelRule(data.label_value).merged:
        log.info("data: %s (config.data.label_value)", merged)
    cases = assign_patients(labelled(datasets), data.patient, "config.data.patient")
    told = patients_of(datasets, data.patient, "config.data.patient")
    contents = hash_cases(cases, _cache(data))
    cases = group_duplicates(cases, contents)
    if has_checkpoints(workdir):
        split = _continued(data, workdir, cases, contents)
    else:
        once(_write_split, data, path, cases, contents, told)
        split = parse_split(path, read_content(path), cases)
    if _record(path).get("settings", {}).get("split") == OWN_SPLIT:
        data.split = OWN_SPLIT
        log.info("data: the splits.json that lay in the workdir is obeyed (%s)", path)
    _say(told, path, split, cases)
    by_name = {case.name: case for case in cases}
    return {part: [by_name[name] for name in names] for part, names in split.items()}


def finished_split(
    workdir: Path, root: str | tuple[str, ...] | None = None, allow: str = ""
) -> dict[str, list[Case]]:
    """`load_split` of a run that has a checkpoint.

    Args:
        workdir: of the run.
        root: folder of the dataset, or of several, if it was moved.
        allow: a further code of `config.data.allow`.

    Raises:
        InputError: not such a run, or the dataset is not the one that it was trained on.
    """
    config = read_config(workdir)
    if not has_checkpoints(workdir):
        raise InputError(f"{workdir} has no checkpoint, expected a folder where training has run")
    config.data.root = root or config.data.root
    config.data.allow = (*config.data.allow, *filter(None, [allow]))
    return load_split(config, workdir)


def _cache(data: ml_collections.ConfigDict) -> Path | None:
    try:
        return cache_folder(data.cache_dir)
    except InputError:  # no home: whoever needs the cache says so
        return None


def _say(patients: str, path: Path, split: Split, cases: Sequence[Case]) -> None:
    sizes = ", ".join(f"{part} {len(names)}" for part, names in split.items())
    log.info("split %s: %s cases (%s)", describe_patients(patients), sizes, path)
    names = [case.name_in_dataset for case in cases]
    visits = find_visits(names)
    if visits and not patients:
        rule = visits_rule(names)
        log.warning(
            "data: %s look like several scans of one patient, but no patients are known, "
            "so that one may be in training and test; name them with config.data.patient%s",
            *(listed(next(iter(visits.values()))), f", such as '{rule}'" * bool(rule)),
        )


def _continued(
    data: ml_collections.ConfigDict, workdir: Path, cases: Sequence[Case], contents: Contents
) -> Split:
    """The split of a run with checkpoints, if it and the files are still the same."""
    path = workdir / "splits.json"
    if not path.exists():
        raise InputError(
            f"{path} does not exist, but {workdir / 'checkpoints'} does, expected the split that "
            "these checkpoints were trained with; put it back, or take another --workdir"
        )
    record = read_content(path)
    split = parse_split(path, record, cases)
    with Checkpoints(workdir, "", read_only=True) as checkpoints:
        checkpoints.check_split(path, split_sha256(split))
    before = _record(path).get("sha256")
    if not isinstance(before, dict) or not all(isinstance(v, dict) for v in before.values()):
        raise InputError(f"{path}: no sha256 of the cases found, expected what training wrote.")
    names = [name for part in split.values() for name in part]
    said = check_contents(path, before, contents, names, tuple(data.allow))
    if said:
        log.warning("data: %s", said)
    new = [case.name for case in cases if case.name not in before]
    if new:
        log.warning("data: %s came after this run began and are not used", listed(new))
    return split


def _write_split(
    data: ml_collections.ConfigDict,
    path: Path,
    cases: Sequence[Case],
    contents: Contents,
    patients: str,
) -> None:
    """Draws or takes over the split of a run that begins, and writes down what made it."""
    settings = {field: data[field] for field in SETTINGS}
    parts_told = any(case.part for case in cases)
    if parts_told:
        _expect_no_other_split(data, path)
        split = split_as_told(cases, tuple(data.fractions), data.split_seed)
    elif _is_own(path, data):
        settings["split"] = OWN_SPLIT
        _expect_unused(data, path)
        split = _from_file(path, cases, data)
    elif data.split:
        split = _from_file(user_path(data.split), cases, data)
    elif data.fold >= 0:
        split = nnunet_folds(cases, data.fold, bool(patients))
    else:
        counts = tuple(data.counts) or None
        split = split_by_patient(cases, tuple(data.fractions), data.split_seed, counts)
    fewer = data.train_patients, data.train_fraction
    split = fewer_training_patients(split, cases, *fewer, data.split_seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"patients": describe_patients(patients), "settings": settings}
    record |= {"split_sha256": split_sha256(split), "sha256": contents}
    write_split(path, {**split, **record})


SETTINGS = (
    *("patient", "split", "fold", "fractions", "counts", "split_seed"),
    *("train_patients", "train_fraction"),
)


def _is_own(path: Path, data: ml_collections.ConfigDict) -> bool:
    """Whether a splits.json was put there, not drawn by an earlier start in this workdir."""
    if not path.exists():
        if data.split == OWN_SPLIT:
            raise InputError(f"{path} does not exist, expected it, as config.data.split says.")
        return False
    if data.split not in ("", OWN_SPLIT):
        if path.resolve() == user_path(data.split).resolve():
            return True
        if not _is_drawn(path):
            raise InputError(
                f"{path} lies in the workdir, and config.data.split is {data.split!r}, expected "
                "one of them."
            )
        return False
    return not _is_drawn(path)


def _is_drawn(path: Path) -> bool:
    """Whether an earlier start in this workdir drew this split itself, and nobody edited it."""
    record = _record(path)
    if not (path.parent / CONFIG).exists() or "settings" not in record:
        return False
    try:
        whole = record["split_sha256"] == split_sha256(record)
    except (KeyError, TypeError):
        return False
    return whole and record["settings"].get("split") != OWN_SPLIT


def _record(path: Path) -> dict:
    content = read_content(path)
    settings = content.get("settings", {}) if isinstance(content, dict) else None
    return content if isinstance(content, dict) and isinstance(settings, dict) else {}


def _expect_unused(data: ml_collections.ConfigDict, path: Path) -> None:
    """Refuses fields that would say something about a split that is given whole."""
    for field, unused in (("train_patients", 0), ("train_fraction", 1.0)):
        if data[field] != unused:
            raise InputError(
                f"config.data.{field} is {data[field]}, but {path} lies in the workdir and is "
                f"obeyed as it is, expected {unused}; name the file with config.data.split instead"
            )


def _expect_no_other_split(data: ml_collections.ConfigDict, path: Path) -> None:
    """Refuses other ways to split cases whose table says the part of each."""
    given = [f"config.data.{name} is {data[name]!r}" for name in ("split",) if data[name]]
    given += [f"config.data.counts is {tuple(data.counts)}"] * bool(len(data.counts))
    given += [f"config.data.fold is {data.fold}"] * (data.fold >= 0)
    given += [f"{path} lies in the workdir"] * (path.exists() and not _is_drawn(path))
    if given:
        raise InputError(
            f"{given[0]}, but {data.images} has a column part, expected one of them to say who is "
            "in which part"
        )


def _from_file(path: Path, cases: Sequence[Case], data: ml_collections.ConfigDict) -> Split:
    """The split of a file, ours or nnU-Net's."""
    content = read_content(path)
    if len(data.counts):
        raise InputError(
            f"config.data.counts is {tuple(data.counts)}, but {path} says who is in which part, "
            "expected ()."
        )
    if isinstance(content, list):
        return nnunet_split(path, content, cases, data.fold)
    if data.fold >= 0:
        raise InputError(
            f"config.data.fold is {data.fold}, but {path} holds no folds, expected -1."
        )
    return parse_split(path, content, cases)
