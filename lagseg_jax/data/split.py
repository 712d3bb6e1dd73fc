"""Deals cases to training, validation and test, so that no patient is in two of them."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import ml_collections
import numpy as np

from lagseg_jax.data.layouts import Case, detect, group_duplicates
from lagseg_jax.data.phantom import write_dataset
from lagseg_jax.runs.workdir import has_checkpoints
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_atomically
from lagseg_jax.runtime.processes import once

PARTS = ("train", "validation", "test")
NNUNET_SEED = 12345
Split = dict[str, list[str]]


def split_by_patient(
    cases: Sequence[Case],
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    counts: tuple[int, int, int] | None = None,
) -> Split:
    """Draws patients at random, all cases of a patient go to one part.

    Args:
        cases: labelled cases; the order does not matter.
        fractions: of the patients, for training, validation and test; sum 1.
        seed: of the draw.
        counts: numbers of patients instead of fractions; sum to all patients.

    Returns:
        {"train": names, "validation": names, "test": names} in the order of `cases`.

    Raises:
        InputError: fewer than three patients, an empty part, or shares that do not add up.
    """
    patients = sorted({case.patient for case in cases})
    total = len(patients)
    if total < len(PARTS):
        raise InputError(f"split: {total} patients found, expected at least three (one per part).")
    if counts is None:
        if len(fractions) != 3 or min(fractions) <= 0 or not math.isclose(sum(fractions), 1):
            raise InputError(
                f"split: fractions {tuple(fractions)} found, expected three above 0 with sum 1."
            )
        validation, test = (max(1, round(share * total)) for share in fractions[1:])
        counts = (total - validation - test, validation, test)
    if len(counts) != 3 or min(counts) < 1 or sum(counts) != total:
        raise InputError(
            f"split: {tuple(counts)} patients for training, validation and test found, expected "
            f"at least one each and {total} together."
        )
    shuffled = _shuffled(patients, seed)
    train, validation = counts[0], counts[0] + counts[1]
    return _parts(cases, shuffled[:train], shuffled[train:validation], shuffled[validation:])


def nnunet_folds(cases: Sequence[Case], fold: int) -> Split:
    """The split of nnU-Net v2's `fold` of five, so that results pair with nnU-Net's case by case.

    nnU-Net: `KFold(n_splits=5, shuffle=True, random_state=12345)` over the sorted case names
    (`generate_crossval_split`). Its validation fold is the test part here. nnU-Net stops at a
    fixed epoch and needs no other part; our early stopping does, so one eighth of the remaining
    patients (10 of 80 %) become the validation part. Folds know no patients: a case whose patient
    is also in the test part is left out.

    Raises:
        InputError: `fold` is not 0 to 4, or there are fewer than five cases.
    """
    names = sorted(case.name for case in cases)
    if fold not in range(5) or len(names) < 5:
        raise InputError(
            f"split: fold {fold} of {len(names)} cases found, expected fold 0 to 4 of at least 5."
        )
    # What scikit-learn's KFold does: five consecutive pieces of the shuffled names, the first
    # len(names) % 5 of which hold one more.
    pieces = np.array_split(_shuffled(names, NNUNET_SEED), 5)
    in_fold = set(pieces[fold].tolist())
    test = {case.patient for case in cases if case.name in in_fold}
    others = sorted({case.patient for case in cases} - test)
    if len(others) < 2:
        raise InputError(
            f"split: {len(others)} patients outside fold {fold} found, expected at least two."
        )
    shuffled = _shuffled(others, NNUNET_SEED)
    validation = max(1, round(len(others) / 8))
    split = _parts(cases, shuffled[validation:], shuffled[:validation], [])
    return split | {"test": [case.name for case in cases if case.name in in_fold]}


def fewer_training_patients(
    split: Split, cases: Sequence[Case], count: int = 0, fraction: float = 1.0, seed: int = 0
) -> Split:
    """Keeps some of the training patients, for few-shot curves; the other parts stay as they are.

    They are the first ones of one seeded order, so that a smaller set lies within a larger one.

    Args:
        split: of `cases`.
        cases: labelled cases.
        count: patients kept; 0 keeps `fraction` of them.
        fraction: of the training patients, above 0, at most 1; at least one patient is kept.
        seed: of the order.

    Raises:
        InputError: there are fewer training patients than `count`.
    """
    patient_of = {case.name: case.patient for case in cases}
    patients = sorted({patient_of[name] for name in split["train"]})
    if count > len(patients):
        raise InputError(
            f"config.data.train_patients is {count}, expected at most the {len(patients)} training "
            "patients of the split"
        )
    kept = _shuffled(patients, seed)[: count or max(1, round(fraction * len(patients)))]
    return split | {"train": [name for name in split["train"] if patient_of[name] in set(kept)]}


def write_split(path: str | Path, split: Split) -> None:
    """Writes `splits.json`, complete or not at all."""
    write_atomically(Path(path), json.dumps(split, indent=1, ensure_ascii=False) + "\n")


def read_split(path: str | Path, cases: Sequence[Case]) -> Split:
    """Reads `splits.json` back and checks it against `cases`.

    Raises:
        InputError: not such a file, an empty part, a name that `cases` lacks, or a patient in two
            parts.
    """
    path = Path(path)
    try:
        split = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable split ({error}), expected JSON.") from error
    if not (
        isinstance(split, dict)
        and set(split) == set(PARTS)
        and all(isinstance(names, list) and names for names in split.values())
    ):
        raise InputError(f"{path}: expected one non-empty list of names for each of {PARTS}.")
    patient_of = {case.name: case.patient for case in cases}
    for name in (name for names in split.values() for name in names):
        if not isinstance(name, str) or name not in patient_of:
            raise InputError(f"{path}: case {name!r} found, expected a name of the dataset.")
    part_of: dict[str, str] = {}
    for part, names in split.items():
        for name in names:
            other = part_of.setdefault(patient_of[name], part)
            if other != part:
                raise InputError(
                    f"{path}: patient {patient_of[name]} found in {other} and in {part}, expected "
                    "in one part."
                )
    return split


def _shuffled(names: list[str], seed: int) -> list[str]:
    # RandomState's stream is frozen; that of default_rng may change with a NumPy release.
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    return [names[index] for index in order]


def _parts(cases: Sequence[Case], *patients: Sequence[str]) -> Split:
    return {
        part: [case.name for case in cases if case.patient in set(members)]
        for part, members in zip(PARTS, patients)
    }


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
