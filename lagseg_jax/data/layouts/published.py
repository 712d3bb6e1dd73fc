"""Recognises the layouts of the data sets that are published, and of nnU-Net."""

import os
import re
from pathlib import Path

from lagseg_jax.data.cases import Case, Recognised, folders, visible, volumes
from lagseg_jax.imaging.volume import SUFFIXES, case_name
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json


def lascarqs(folder: Path) -> Recognised | None:
    """`task2/train_data/train_7/{enhanced,atriumSegImgMO}.nii.gz`; task 1 adds a scar label."""
    return _case_folders(folder, "enhanced.nii.gz", "atriumSegImgMO.nii.gz")


def challenge_2018(folder: Path) -> Recognised | None:
    """One folder per patient with `lgemri.nrrd` and `laendo.nrrd`."""
    return _case_folders(folder, "lgemri.nrrd", "laendo.nrrd")


def nnunet(folder: Path) -> Recognised | None:
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
        {path: re.fullmatch(r"(.+)_([0-9]{4})", case_name(path)) for path in volumes(part, ending)}
        for part in (folder / "imagesTr", folder / "imagesTs")
    )
    # MSD's names may end in four digits, too; then the label has the whole name of the image.
    labels = {path.name for path in visible(folder / "labelsTr")}
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
        ending,
    )


def decathlon(folder: Path) -> Recognised | None:
    """`imagesTr/la_003.nii.gz` and `labelsTr/la_003.nii.gz`."""
    images, test = (
        {case_name(path): path for path in volumes(folder / part)}
        for part in ("imagesTr", "imagesTs")
    )
    return _paired_folders(folder, images, test) if images else None


def _case_folders(folder: Path, image: str, label: str) -> Recognised | None:
    """Cases that are folders with files of fixed names; without any label, a test set."""
    # os.path: False, not an error, in the folders of other users. A link to nothing is a file that
    # is missing, which the check of its case says.
    with_image = [case for case in folders(folder) if os.path.lexists(case / image)]
    if not with_image:
        return None
    labelled = [case for case in folders(folder) if os.path.lexists(case / label)]
    if not labelled:
        return "", [Case(case.name, case.name, case / image, None) for case in with_image]
    # A label without its image is a case, too, whose image is missing.
    return "", [
        Case(case.name, case.name, case / image, case / label)
        for case in folders(folder)
        if case in with_image or case in labelled
    ]


def _paired_folders(
    folder: Path, train: dict[str, Path], test: dict[str, Path], ending: str | None = None
) -> Recognised:
    """Cases of `imagesTr`, each with its label of the same name and type, then `imagesTs`.

    A label without its image is a case, too, whose image is missing.
    """
    cases = []
    for name, image in train.items():
        suffix = image.name[len(case_name(image)) :]
        cases.append(Case(name, name, image, folder / "labelsTr" / f"{name}{suffix}"))
    channel = "_0000" * any(case_name(image) != name for name, image in train.items())
    for label in volumes(folder / "labelsTr", ending):
        if (name := case_name(label)) not in train:
            suffix = label.name[len(name) :]
            cases.append(Case(name, name, folder / "imagesTr" / f"{name}{channel}{suffix}", label))
    return "", cases + [Case(name, name, image, None) for name, image in test.items()]


def _dataset_json(folder: Path) -> dict:
    path = folder / "dataset.json"
    return read_json(path, "nnU-Net's description of a dataset") if path.exists() else {}
