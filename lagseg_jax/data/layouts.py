"""Finds the cases of a dataset, in the layout that its folder has, and reads them in place."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import ml_collections

from lagseg_jax.config.validate import check_batch_size
from lagseg_jax.imaging.volume import SUFFIXES, case_name, is_volume_file
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json


@dataclass(frozen=True)
class Case:
    """One image; `name` is unique.

    `label` is None where the publisher keeps it back; otherwise it is where the label ought to be,
    and `quality` says so if it is missing there.
    """

    name: str
    patient: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class Dataset:
    """The labelled cases of one dataset in numeric order, and how many images have no label."""

    layout: str
    root: Path
    cases: list[Case]
    unlabelled: int


def detect(root: str | Path) -> Dataset:
    """Finds the one dataset in `root` or in a folder up to two levels below it.

    Raises:
        InputError: no such folder, empty folder, unknown layout, several datasets under `root`
            (both LAScarQS tasks, say), or no label at all.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, expected that of a dataset.")
    found, unlabelled = [], []
    for layout, folder, cases in find_layouts(root):
        labelled = [case for case in cases if case.label is not None]
        unlabelled += [case for case in cases if case.label is None]
        found += [(layout, folder, labelled)] if labelled else []
    if len(found) > 1:
        folders = ", ".join(str(folder) for _, folder, _ in found)
        raise InputError(f"{root}: several datasets found, expected the name of one: {folders}.")
    if not found:
        names = [entry.name for entry in _visible(root)]
        what = "an empty folder"
        if unlabelled:
            what = f"images without labels ({unlabelled[0].image})"
        elif names:
            what = f"an unknown layout ({', '.join(names[:5])}{', ...' * bool(names[5:])})"
        known = "; ".join(f"{layout}: {files}" for layout, files, _ in LAYOUTS)
        raise InputError(f"{root}: {what} found, expected one of {known}.")
    layout, folder, cases = found[0]
    return Dataset(layout, folder, cases, len(unlabelled))


def find_layouts(root: Path) -> list[tuple[str, Path, list[Case]]]:
    """Layout, folder and cases, labelled or not, of every dataset in `root` or two levels below.

    Raises:
        InputError: a damaged `dataset.json`, or the same case in two formats.
    """
    below = _folders(root)
    found = []
    for folder in [root, *below, *(deeper for one in below for deeper in _folders(one))]:
        for layout, _, read in LAYOUTS:
            cases = read(folder)
            if cases is not None:
                found.append((layout, folder, cases))
                break
    return found


def check_processes(config: ml_collections.ConfigDict, count: int) -> None:
    """Refuses more processes than can share the batch or the cases, before any of them starts.

    Raises:
        InputError: the batch does not divide among them, or there are fewer cases.
    """
    if count < 2:
        return
    check_batch_size("config.train.batch_size", config.train.batch_size, count, "processes")
    if config.data.root != "phantom":
        cases = len(detect(config.data.root).cases)
        if count > cases:
            raise InputError(
                f"{config.data.root}: {count} processes for {cases} labelled cases found, expected "
                f"at most {cases} processes."
            )


def _lascarqs(folder: Path) -> list[Case] | None:
    """`task2/train_data/train_7/{enhanced,atriumSegImgMO}.nii.gz`; task 1 adds a scar label."""
    return _case_folders(folder, "enhanced.nii.gz", "atriumSegImgMO.nii.gz")


def _challenge_2018(folder: Path) -> list[Case] | None:
    """One folder per patient with `lgemri.nrrd` and `laendo.nrrd`."""
    return _case_folders(folder, "lgemri.nrrd", "laendo.nrrd")


def _nnunet(folder: Path) -> list[Case] | None:
    """`imagesTr/CASE_0000.nii.gz` and `labelsTr/CASE.nii.gz`, described by `dataset.json`."""
    if not (folder / "imagesTr").is_dir():
        return None
    ending = _dataset_json(folder).get("file_ending")
    if ending not in (None, *SUFFIXES):
        raise InputError(
            f"{folder / 'dataset.json'}: file_ending {ending!r} found, "
            f"expected one of {', '.join(SUFFIXES)}."
        )
    train, test = (
        {path: re.fullmatch(r"(.+)_([0-9]{4})", case_name(path)) for path in _volumes(part, ending)}
        for part in (folder / "imagesTr", folder / "imagesTs")
    )
    # MSD's names may end in four digits, too; then the label has the whole name of the image.
    labels = {path.name for path in _visible(folder / "labelsTr")}
    whole = sum(image.name in labels for image in train)
    without = sum(
        match[1] + image.name[len(case_name(image)) :] in labels
        for image, match in train.items()
        if match
    )
    if not any(train.values()) or whole > without:
        return None
    for image, match in (train | test).items():
        if match is None or match[2] != "0000":
            raise InputError(
                f"{image}: not the only channel of a case, expected a name like CASE_0000.nii.gz."
            )
    return _paired_folders(
        folder,
        {match[1]: image for image, match in train.items() if match},
        {match[1]: image for image, match in test.items() if match},
    )


def _decathlon(folder: Path) -> list[Case] | None:
    """`imagesTr/la_003.nii.gz` and `labelsTr/la_003.nii.gz`."""
    images, test = (
        {case_name(path): path for path in _volumes(folder / part)}
        for part in ("imagesTr", "imagesTs")
    )
    return _paired_folders(folder, images, test) if images else None


LAYOUTS: list[tuple[str, str, Callable[[Path], list[Case] | None]]] = [
    ("LAScarQS 2022", "train_1/enhanced.nii.gz and atriumSegImgMO.nii.gz", _lascarqs),
    ("2018 Atrial Segmentation Challenge", "ID/lgemri.nrrd and laendo.nrrd", _challenge_2018),
    ("nnU-Net raw", "imagesTr/CASE_0000.nii.gz and labelsTr/CASE.nii.gz", _nnunet),
    ("MSD Task02", "imagesTr/la_003.nii.gz and labelsTr/la_003.nii.gz", _decathlon),
]


def _case_folders(folder: Path, image: str, label: str) -> list[Case] | None:
    """Cases that are folders with files of fixed names; without any label, a test set."""
    # os.path: False, not an error, in the folders of other users.
    folders = [case for case in _folders(folder) if os.path.isfile(case / image)]
    if not folders:
        return None
    labelled = any((case / label).is_file() for case in folders)
    return [
        Case(case.name, case.name, case / image, case / label if labelled else None)
        for case in folders
    ]


def _paired_folders(folder: Path, train: dict[str, Path], test: dict[str, Path]) -> list[Case]:
    """Cases of `imagesTr`, each with its label of the same name and type, then `imagesTs`."""
    cases = []
    for name, image in train.items():
        suffix = image.name[len(case_name(image)) :]
        cases.append(Case(name, name, image, folder / "labelsTr" / f"{name}{suffix}"))
    return cases + [Case(name, name, image, None) for name, image in test.items()]


def _dataset_json(folder: Path) -> dict:
    path = folder / "dataset.json"
    if not path.exists():
        return {}
    return read_json(path, "nnU-Net's description of a dataset")


def _volumes(folder: Path, ending: str | None = None) -> list[Path]:
    """Volume files in numeric order; the same case in two formats is an error."""
    paths = [path for path in _visible(folder) if is_volume_file(path)]
    if ending is not None:
        paths = [path for path in paths if path.name.endswith(ending)]
    for one, other in pairwise(paths):
        if case_name(one) == case_name(other):
            raise InputError(f"{one}: also there as {other.name}, expected one file per case.")
    return paths


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _visible(folder) if entry.is_dir()]


def _visible(folder: Path) -> list[Path]:
    """Entries but dot-files, train_2 before train_10; none where there is nothing to read."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return sorted(entries, key=lambda entry: _numeric(entry.name))


def _numeric(name: str) -> tuple[list[str | int], str]:
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, name
