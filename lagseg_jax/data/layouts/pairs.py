"""Recognises images and labels by their names, where these leave no doubt.

`images/` beside `labels/`, one folder per patient, or pairs of files in one folder. What a name
means is read from its words (`mask`, `seg`, `gt`); the case is what remains when the words that all
images share, and those that all labels share, are taken away.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lagseg_jax.data.cases import (
    Case,
    Recognised,
    folders,
    numeric,
    visible,
    volumes,
    with_folders_below,
)
from lagseg_jax.data.layouts.naming import Pattern, called, pair
from lagseg_jax.imaging.volume import SUFFIXES, case_name, is_volume_file

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "scans", "volumes", "lge", "mr", "mri")
LABEL_FOLDERS = (
    *("labels", "label", "masks", "mask", "segmentations", "segmentation", "segs", "seg"),
    *("gt", "groundtruth", "ground_truth", "annotations", "contours"),
)
LABEL_WORDS = {"mask", "masks", "seg", "segmentation", "label", "labels", "gt", "truth", "manual"}
LABEL_WORDS |= {"groundtruth", "annotation", "dseg", "lab", "laseg", "lamask", "lalabel", "msk"}
# Parts of a split, which are not to be put together.
PART_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}
# Structures: the label of a file pair such as lge and la, but also names of whole data sets.
STRUCTURES = {"la", "lac", "laendo", "endo", "atrium", "cavity"}
IMAGE_WORDS = {"image", "img", "scan", "volume", "lge", "lgemri", "mri", "mr", "ct", "cta"}


def images_beside_labels(folder: Path) -> Recognised | None:
    """`images/` and `labels/`, or folders of like names; without labels, a test set.

    Or any two folders, if all files in one of them, and none in the other, are called labels.
    """
    below = {entry.name.lower(): entry for entry in folders(folder)}
    ours, theirs = (
        [below[name] for name in names if name in below and _volume_files(below[name])]
        for names in (IMAGE_FOLDERS, LABEL_FOLDERS)
    )
    if not theirs and not ours:
        held = [below for below in folders(folder) if _volume_files(below)]
        said = [{is_label(case_name(file)) for file in _volume_files(below)} for below in held]
        if sorted(said, key=max) == [{False}, {True}]:
            ours, theirs = [held[said.index({False})]], [held[said.index({True})]]
    if len(ours) != 1 or len(theirs) > 1:
        return None
    return _found(folder, volumes(ours[0]), volumes(theirs[0]) if theirs else [])


def pairs_in_a_folder(folder: Path, files: Sequence[Path] | None = None) -> Recognised | None:
    """`X_image.nii.gz` beside `X_mask.nii.gz`, or `X.nii.gz` beside `X_seg.nii.gz`.

    Args:
        folder: of all of them.
        files: only these of the folder.
    """
    files = _volume_files(folder) if files is None else files
    labels = [file for file in files if is_label(case_name(file))]
    return _found(folder, [f for f in files if f not in labels], labels) if labels else None


def folder_per_patient(folder: Path) -> Recognised | None:
    """`P01/lge.nii.gz` and `P01/la.nii.gz`, the same in all folders but for the patient's name.

    Where a patient's folder holds no file, the folders in it count: `P01/LGE/image.nii.gz`.
    """
    held = {entry: _names_below(entry) for entry in folders(folder)}
    held = {entry: names for entry, names in held.items() if names}
    if any(entry.name.lower() in IMAGE_FOLDERS + LABEL_FOLDERS for entry in held):
        return None
    repeated = {e: [name.replace(e.name, "*") for name in names] for e, names in held.items()}
    for roles in (held, repeated):
        labels = {role for names in roles.values() for role in names if is_label(case_name(role))}
        images = {role for names in roles.values() for role in names} - labels
        if len(images) == 1 and len(labels) < 2:
            image, label = images.pop(), labels.pop() if labels else ""
            return _words(f"*/{image}", f"*/{label}" * bool(label)), [
                Case(
                    *(entry.name, entry.name, entry / image.replace("*", entry.name)),
                    entry / label.replace("*", entry.name) if label else None,
                )
                for entry in held
            ]
    return None


def pairs_in_folders(folder: Path) -> Recognised | None:
    """Pairs of files in folders below, named alike in all of them: a folder per year or centre.

    Folders such as train and test are not put together, nor any beside other volume files.
    """
    held = {below: _volume_files(below) for below in with_folders_below(folder, 2)}
    held = {below: files for below, files in held.items() if files}
    parts = {part.lower() for below in held for part in below.relative_to(folder).parts}
    if len(held) < 2 or folder in held or parts & PART_FOLDERS:
        return None
    read = {below: pairs_in_a_folder(below, files) for below, files in held.items()}
    naming = next(iter(read.values()))
    cases: dict[str, Case] = {}
    for below, one in read.items():
        if one is None or naming is None or one[0] != naming[0]:
            return None
        where = below.relative_to(folder).as_posix()
        cases |= {f"{where}/{case.name}": case for case in one[1]}
    names = called(cases)
    return naming[0] if naming else "", [
        replace(cases[key], name=name, patient=name) for key, name in names.items()
    ]


def is_label(stem: str) -> bool:
    """Whether the words in a file's name say that it is a label."""
    words = re.findall("[a-z]+", stem.lower())
    structure = bool(words) and words[-1] in STRUCTURES and not IMAGE_WORDS & set(words)
    # la_003 is a case of a data set that is called so.
    return bool(LABEL_WORDS & set(words)) or (structure and stem[-1].isalpha())


def _names_below(folder: Path) -> list[str]:
    """The volume files in it, or else in its folders, relative to it."""
    files = _volume_files(folder)
    files = files or [file for below in folders(folder) for file in _volume_files(below)]
    return [str(file.relative_to(folder)) for file in files]


def _volume_files(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if is_volume_file(path)]


def _found(root: Path, images: Sequence[Path], labels: Sequence[Path]) -> Recognised | None:
    """The pairs of these files; None unless some image has a label."""
    where = "" if not images or images[0].parent == root else f"{images[0].parent.name}/"
    if images and not labels:
        cases = [Case(case_name(path), case_name(path), path, None) for path in images]
        return _words(f"{where}*", ""), cases
    beside = "" if labels[0].parent == root else f"{labels[0].parent.name}/"
    best: tuple[int, Pattern, Pattern] | None = None
    for one, other in itertools.product(_affixes(images), _affixes(labels)):
        patterns = Pattern(where + one, "images"), Pattern(beside + other, "labels")
        ours, theirs = (
            {name for path in files if (name := _middle(path.name, affixes))}
            for files, affixes in ((images, one), (labels, other))
        )
        whole = len(ours) == len(images) and len(theirs) == len(labels)
        count = len(ours & theirs)
        if whole and count > (best[0] if best else 0):
            best = count, *patterns
    if best is None:
        return None
    _, image, label = best
    found, truth = (
        {_middle(path.name, pattern.text.split("/")[-1]): path for path in files}
        for files, pattern in ((images, image), (labels, label))
    )
    return _words(image.text, label.text), pair(root, image, label, found, truth)


def line_of_folders(root: Path) -> tuple[str, str] | None:
    """The patterns that pair all files of two folders, whatever these are called; None for none.

    Files of the second folder, in the order of names, are taken for the labels unless words say
    otherwise.
    """
    held = [below for below in folders(root) if _volume_files(below)]
    if len(held) != 2:
        return None
    first, second = sorted(held, key=lambda below: is_label(case_name(_volume_files(below)[0])))
    images, labels = _volume_files(first), _volume_files(second)
    found = _found(root, images, labels)
    if found is None or not len(found[1]) == len(images) == len(labels):
        return None
    one, _, other = found[0].partition(" with ")
    return one, other


def _words(images: str, labels: str) -> str:
    return f"{images} with {labels}" if labels else f"{images} without labels"


def _middle(name: str, pattern: str) -> str:
    """What the wildcard of a pattern stands for; "" where the name does not fit."""
    before, after = pattern.split("*")
    fits = name.startswith(before) and name.endswith(after)
    if not fits or len(name) <= len(before) + len(after):
        return ""
    middle = name[len(before) : len(name) - len(after)]
    return middle if after else case_name(middle)


def _affixes(files: Sequence[Path]) -> list[str]:
    """Patterns that all names fit, those with the fewest characters first.

    Beginnings and ends are those that the names share, cut where a word begins or ends.
    """
    names = [file.name for file in files]
    if not names:
        return []
    start = _shared(names)
    end = _shared([name[::-1] for name in names])[::-1]
    # Before a number, too: img0001.
    ends_of_words = re.finditer(r"[\W_]+|(?<=[A-Za-z])(?=[0-9])", names[0])
    cuts = [match.end() for match in ends_of_words if match.end() <= len(start)]
    starts = [""] + [start[:cut] for cut in cuts]
    ends = [end[match.start() :] for match in re.finditer(r"[\W_]+", end)]
    same = [suffix for suffix in SUFFIXES if end.lower().endswith(suffix)]
    ends = [one for one in ends if one.lower().endswith(same[0])] if same else [""]
    found = {f"{one}*{other}" for one in starts for other in ends}
    return sorted(found, key=lambda text: (text.split("*")[0] != "", len(text), numeric(text)))


def _shared(names: Sequence[str]) -> str:
    """What all names begin with: where the first and the last in order agree, so do the others."""
    first, last = min(names), max(names)
    pairs = enumerate(zip(first, last))
    return first[: next((at for at, (one, other) in pairs if one != other), len(first))]
