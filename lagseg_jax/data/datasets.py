"""Finds the datasets that a config or a command names, each case under a name of its own."""

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import ml_collections

from lagseg_jax.config.choices import PHANTOMS
from lagseg_jax.config.validate import as_tuple, check_batch_size
from lagseg_jax.data.cases import Case, Dataset
from lagseg_jax.data.layouts.case_table import is_table, table_path
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.data.phantom import write_dataset
from lagseg_jax.data.subset import select
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.processes import once

log = logging.getLogger(__name__)

Texts = str | Sequence[str]  # one, or one for each dataset


def find_datasets(
    root: Texts,
    images: Texts = "",
    labels: Texts = "",
    cases: Texts = (),
    exclude: Texts = (),
    option: str = "config.data.",
) -> list[Dataset]:
    """The datasets at these folders.

    The cases of several are named DATASET_case, and so are those of one that is given a name.

    Args:
        root: folders, or NAME=FOLDER; without it a dataset is called like its folder, and those
            above where that is not enough. "" for the folder of a table.
        images: as in `detect`, for all datasets or one for each.
        labels: the same.
        cases: names or glob patterns of the cases to keep; () for all.
        exclude: of those to leave out.
        option: how the names of the options begin, for messages.

    Raises:
        InputError: a dataset that `detect` refuses, two of the same name, a name or a pattern that
            fits nothing, or no labelled case is left.
    """
    named = _named_folders(as_tuple(root), as_tuple(images), option)
    patterns = [
        _one_for_each(texts, len(named), f"{option}{what}")
        for what, texts in (("images", as_tuple(images)), ("labels", as_tuple(labels)))
    ]
    found = [
        _called(detect(folder, image, label, option), name)
        for (name, folder), image, label in zip(named, *patterns)
    ]
    return _kept(found, as_tuple(cases), as_tuple(exclude), option)


def _kept(
    found: list[Dataset], cases: tuple[str, ...], exclude: tuple[str, ...], option: str
) -> list[Dataset]:
    """The datasets with the cases that are to be kept."""
    together = [case for dataset in found for case in dataset.cases + dataset.others]
    _check_names(together)
    kept = {case.name for case in select(together, cases, exclude, option)}
    found = [
        replace(
            dataset,
            cases=[case for case in dataset.cases if case.name in kept],
            others=[case for case in dataset.others if case.name in kept],
        )
        for dataset in found
    ]
    if not any(dataset.cases for dataset in found):
        raise InputError(
            f"{option}cases is {cases} and {option}exclude is {exclude}, which leaves no case with "
            "a label, expected some."
        )
    return found


def config_datasets(data: ml_collections.ConfigDict, workdir: Path | None = None) -> list[Dataset]:
    """The datasets of `config.data`; phantoms, if it asks for some, are made in the workdir."""
    roots = as_tuple(data.root)
    if workdir is not None:
        for name in set(roots) & set(PHANTOMS):
            once(partial(write_dataset, workdir / name, family=PHANTOMS[name]))
        roots = tuple(str(workdir / root) if root in PHANTOMS else root for root in roots)
    return find_datasets(roots, data.images, data.labels, data.cases, data.exclude)


def labelled(datasets: Sequence[Dataset]) -> list[Case]:
    """The cases of all datasets that have a label."""
    return [case for dataset in datasets for case in dataset.cases]


def say_datasets(datasets: Sequence[Dataset]) -> None:
    """Logs what was recognised, a line for each."""
    for dataset in datasets:
        log.info(
            "data: %s%s at %s, %d labelled cases, %d without label",
            *(f"{dataset.name}: " * bool(dataset.name), dataset.layout, dataset.root),
            *(len(dataset.cases), dataset.unlabelled),
        )
        for line in passed_over(dataset):
            log.info("data: not read: %s", line)


def passed_over(dataset: Dataset) -> list[str]:
    """In a line, or none, the folders beside a dataset whose volume files are not read."""
    passed = dataset.passed
    names = ", ".join(map(str, passed[:3])) + f" and {len(passed) - 3} more" * bool(passed[3:])
    return [f"{names} (other volume files, not of this dataset)"] if passed else []


def patients_of(datasets: Sequence[Dataset], rule: str, option: str) -> str:
    """What tells the patients apart: the rule, or the table of a dataset; "" for nothing.

    Raises:
        InputError: both.
    """
    tables = [dataset.patients for dataset in datasets if dataset.patients]
    if tables and rule:
        raise InputError(
            f"{option} is {rule!r}, but {tables[0]} has a column patient, expected one of them"
        )
    return rule or ", ".join(tables)


def check_processes(config: ml_collections.ConfigDict, count: int) -> None:
    """Refuses more processes than can share the batch or the cases, before any of them starts.

    Raises:
        InputError: the batch does not divide among them, or there are fewer cases.
    """
    if count < 2:
        return
    check_batch_size(config.train.batch_size, count, "processes")
    if not set(as_tuple(config.data.root)) & set(PHANTOMS):
        cases = sum(len(dataset.cases) for dataset in config_datasets(config.data))
        if count > cases:
            raise InputError(
                f"{config.data.root}: {count} processes for {cases} labelled cases found, expected "
                f"at most {cases} processes."
            )


def _named_folders(
    roots: Sequence[str], images: Sequence[str], option: str
) -> list[tuple[str, Path]]:
    """Name and folder of each dataset; a single one has no name unless it is given one."""
    if not any(roots) and len(images) == 1 and is_table(images[0]):
        return [("", table_path(Path(), images[0], f"{option}images").parent)]
    named: list[tuple[str, Path]] = []
    for root in map(str, roots):
        name, equals, where = root.partition("=")
        if not equals or Path(root).expanduser().is_dir():
            named.append(("", Path(root).expanduser()))
            continue
        if not re.fullmatch(r"\w[\w.-]*", name) or not where:
            raise InputError(
                f"{root}: no such folder, expected one, or NAME=FOLDER with letters, digits, "
                "'_', '-' or '.' in the name"
            )
        named.append((name, Path(where).expanduser()))
    if len(named) == 1:
        return named
    called = _distinct([folder for name, folder in named if not name])
    named = [(name or called[folder], folder) for name, folder in named]
    for name, folder in named:
        other = next(path for one, path in named if one == name)
        if other is not folder:
            raise InputError(
                f"{other} and {folder} are both called {name}, expected a name for each of them "
                "that differs, given as NAME=FOLDER"
            )
    return named


def _distinct(folders: Sequence[Path]) -> dict[Path, str]:
    """The name of each folder, with those above it where several are called the same."""
    parts = {folder: [p for p in folder.resolve().parts if p != os.sep] for folder in folders}
    depth = dict.fromkeys(folders, 1)
    while True:
        names = {folder: "_".join(parts[folder][-depth[folder] :]) for folder in folders}
        counts = Counter(names.values())
        longer = [f for f in folders if counts[names[f]] > 1 and depth[f] < len(parts[f])]
        if not longer:
            return names
        for folder in set(longer):
            depth[folder] += 1


def _one_for_each(texts: Sequence[str], count: int, option: str) -> Sequence[str]:
    if len(texts) > 1 and len(texts) != count:
        raise InputError(
            f"{option} has {len(texts)} patterns for {count} datasets, expected one for all or one "
            "for each"
        )
    return texts if len(texts) == count else [*texts, ""][:1] * count


def _called(dataset: Dataset, name: str) -> Dataset:
    """The dataset and its cases under its name, if it has one."""
    if not name:
        return dataset

    def call(case: Case) -> Case:
        unique = f"{name}_{case.name}"
        patient = unique if case.patient == case.name else case.patient
        return replace(case, name=unique, patient=patient, dataset=name)

    return replace(
        dataset,
        name=name,
        cases=[call(case) for case in dataset.cases],
        others=[call(case) for case in dataset.others],
    )


def _check_names(cases: Sequence[Case]) -> None:
    """Raises InputError unless every name is that of one case."""
    first: dict[str, Case] = {}
    for case in cases:
        other = first.setdefault(case.name, case)
        if other is not case:
            raise InputError(
                f"{other.image} and {case.image} are both named {case.name}, expected each case "
                "once; give the datasets other names with NAME=FOLDER"
            )
