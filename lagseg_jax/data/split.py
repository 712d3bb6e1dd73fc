"""Draws or reads who is in the training, validation and test part, no patient in two of them."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.data.cases import Case
from lagseg_jax.data.patients import listed
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json, write_atomically

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


def split_as_told(
    cases: Sequence[Case], fractions: tuple[float, float, float] = (0.7, 0.1, 0.2), seed: int = 0
) -> Split:
    """The parts that a table names.

    Without validation cases, some of the training patients are drawn for that: as large a share as
    the fraction of validation in that of training and validation. Without a test case that has a
    label, all parts are drawn from the training cases, as `split_by_patient` does.

    Args:
        cases: labelled ones, each with its part.
        fractions: of the patients, for training, validation and test.
        seed: of the draws.

    Raises:
        InputError: a patient in two parts, or too few patients.
    """
    told = {part: [case.name for case in cases if case.part == part] for part in PARTS}
    if not told["test"] and not told["validation"]:
        return split_by_patient(cases, fractions, seed)
    if not told["validation"]:
        patients = sorted({case.patient for case in cases if case.part == "train"})
        if len(patients) < 2:
            raise InputError(
                f"split: {len(patients)} patients with the part train found, expected at least "
                "two, one of them for validation."
            )
        count = max(1, round(fractions[1] / (fractions[0] + fractions[1]) * len(patients)))
        drawn = set(_shuffled(patients, seed)[:count])
        moved = {case.name for case in cases if case.part == "train" and case.patient in drawn}
        told["validation"] = [name for name in told["train"] if name in moved]
        told["train"] = [name for name in told["train"] if name not in moved]
    if empty := [part for part, names in told.items() if not names]:
        raise InputError(
            f"split: no labelled case with the part {empty[0]} found, expected one at least."
        )
    return _checked(Path("column part"), told, cases)


def nnunet_folds(cases: Sequence[Case], fold: int, by_patient: bool = False) -> Split:
    """The split of nnU-Net v2's `fold` of five, so that results pair with nnU-Net's case by case.

    nnU-Net: `KFold(n_splits=5, shuffle=True, random_state=12345)` over the sorted case names
    (`generate_crossval_split`). Its validation fold is the test part here. nnU-Net stops at a
    fixed epoch and needs no other part; our early stopping does, so one eighth of the remaining
    patients (10 of 80 %) become the validation part. nnU-Net's folds know no patients: a case whose
    patient is also in the test part is left out.

    Args:
        cases: labelled cases; the order does not matter.
        fold: 0 to 4.
        by_patient: draws the folds over the sorted patients instead, so that no case is left out.

    Raises:
        InputError: `fold` is not 0 to 4, or there are fewer than five cases (or patients).
    """
    names = sorted({case.patient if by_patient else case.name for case in cases})
    if fold not in range(5) or len(names) < 5:
        raise InputError(
            f"split: fold {fold} of {len(names)} {'patients' if by_patient else 'cases'} found, "
            "expected fold 0 to 4 of at least 5."
        )
    # What scikit-learn's KFold does: five consecutive pieces of the shuffled names, the first
    # len(names) % 5 of which hold one more.
    pieces = np.array_split(_shuffled(names, NNUNET_SEED), 5)
    in_fold = set(pieces[fold].tolist())
    test = [case for case in cases if (case.patient if by_patient else case.name) in in_fold]
    return _with_validation(cases, test, f"outside fold {fold}")


def _with_validation(cases: Sequence[Case], test: Sequence[Case], where: str) -> Split:
    """Of the patients that are not in the test part, one eighth becomes the validation part."""
    others = sorted({case.patient for case in cases} - {case.patient for case in test})
    if len(others) < 2:
        raise InputError(f"split: {len(others)} patients {where} found, expected at least two.")
    shuffled = _shuffled(others, NNUNET_SEED)
    validation = max(1, round(len(others) / 8))
    split = _parts(cases, shuffled[validation:], shuffled[:validation], [])
    return split | {"test": [case.name for case in test]}


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


def write_split(path: str | Path, split: Mapping[str, object]) -> None:
    """Writes `splits.json`, complete or not at all."""
    write_atomically(Path(path), json.dumps(split, indent=1, ensure_ascii=False) + "\n")


def split_sha256(split: Mapping[str, Sequence[str]]) -> str:
    """What checkpoints keep of a split: SHA-256 of the names of every part, in their order."""
    names = {part: list(split[part]) for part in PARTS}
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()


def read_split(path: str | Path, cases: Sequence[Case]) -> Split:
    """Reads `splits.json` back and checks it against `cases`.

    Raises:
        InputError: not such a file, an empty part, names that `cases` lacks or that stand there
            twice, or a patient in two parts.
    """
    return parse_split(Path(path), read_content(path), cases)


def read_content(path: str | Path) -> Any:
    """The content of a split's file, ours or nnU-Net's; raises InputError if it is no JSON."""
    return read_json(path, "a split", kind=object)


def parse_split(path: Path, content: object, cases: Sequence[Case]) -> Split:
    """The parts in the content of a `splits.json`; arguments and errors as in `read_split`."""
    split = content if isinstance(content, dict) else {}
    parts = {part: split.get(part) for part in PARTS}
    if not all(isinstance(names, list) and names for names in parts.values()):
        raise InputError(f"{path}: expected one non-empty list of names for each of {PARTS}.")
    return _checked(path, parts, cases)


def nnunet_split(path: Path, content: list, cases: Sequence[Case], fold: int) -> Split:
    """A fold of nnU-Net's `splits_final.json`: `val` is the test part here, as in `nnunet_folds`.

    Raises:
        InputError: no such fold, or names as in `read_split`.
    """
    folds = len(content)
    if not 0 <= fold < folds:
        raise InputError(
            f"{path}: nnU-Net's {folds} folds found and config.data.fold is {fold}, expected 0 to "
            f"{folds - 1}."
        )
    one = content[fold] if isinstance(content[fold], dict) else {}
    parts: dict[str, list] = {part: one.get(part, []) for part in ("train", "val")}
    if not all(isinstance(names, list) and names for names in parts.values()):
        raise InputError(f"{path}: expected non-empty lists train and val in fold {fold}.")
    _checked(path, parts, cases)
    named = set(parts["train"]) | set(parts["val"])
    test = [case for case in cases if case.name in set(parts["val"])]
    return _with_validation([case for case in cases if case.name in named], test, "to train on")


def _checked(path: Path, parts: Mapping, cases: Sequence[Case]) -> Split:
    """The parts, if every name is one of the cases', stands there once, and no patient in two."""
    patient_of = {case.name: case.patient for case in cases}
    names = [name for part in parts.values() for name in part]
    unknown = [name for name in names if not isinstance(name, str) or name not in patient_of]
    if unknown:
        raise InputError(f"{path}: {listed(unknown)} found, expected names of the dataset.")
    first: dict[str, tuple[str, str]] = {}  # patient -> part and case
    for part, members in parts.items():
        twice = sorted({name for name in members if members.count(name) > 1})
        if twice:
            raise InputError(f"{path}: {listed(twice)} found twice in {part}, expected once.")
        for name in members:
            other, case = first.setdefault(patient_of[name], (part, name))
            if other != part:
                raise InputError(
                    f"{path}: patient {patient_of[name]} found in {other} and in {part} (cases "
                    f"{case} and {name}), expected in one part."
                )
    return {part: list(members) for part, members in parts.items()}


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
