"""What datasets consist of: cases, each an image and where its label is."""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from lagseg_jax.imaging.volume import case_name, is_volume_file
from lagseg_jax.runtime.errors import InputError


@dataclass(frozen=True)
class Case:
    """One image with its label.

    Attributes:
        name: unique; files are called like it.
        patient: of whom it is.
        image: the file, or where it ought to be.
        label: None where the publisher keeps it back; otherwise where it is or ought to be, and
            `quality` says so if it is missing there.
        part: of the split, where the dataset says it: train, validation or test.
        dataset: its name, where there are several.
    """

    name: str
    patient: str
    image: Path
    label: Path | None
    part: str = ""
    dataset: str = ""

    @property
    def name_in_dataset(self) -> str:
        """The name before the datasets were put together."""
        return self.name.removeprefix(f"{self.dataset}_") if self.dataset else self.name


@dataclass(frozen=True)
class Dataset:
    """The cases of one dataset in numeric order.

    Attributes:
        layout: how its files are named, in words.
        root: the folder where they were found.
        cases: with label.
        others: without.
        name: "" for the only one.
        patients: the table that names its patients; "" for none.
        passed: folders beside it with volume files that are not part of it.
    """

    layout: str
    root: Path
    cases: list[Case]
    others: list[Case] = field(default_factory=list)
    name: str = ""
    patients: str = ""
    passed: tuple[Path, ...] = ()

    @property
    def unlabelled(self) -> int:
        """How many images have no label."""
        return len(self.others)


Recognised = tuple[str, list[Case]]  # how the files are named, where a layout leaves that open


def visible(folder: Path) -> list[Path]:
    """Entries but dot-files, train_2 before train_10; none where there is nothing to read."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return sorted(entries, key=lambda entry: numeric(entry.name))


def folders(folder: Path) -> list[Path]:
    """The folders in it, in the same order."""
    return [entry for entry in visible(folder) if entry.is_dir()]


def with_folders_below(root: Path, levels: int = 4) -> list[Path]:
    """The folder and those below it, down to so many levels (links may form a loop)."""
    found = [root]
    level = found
    for _ in range(levels):
        level = [below for folder in level for below in folders(folder)]
        found = found + level
    return found


def volumes(folder: Path, ending: str | None = None) -> list[Path]:
    """Volume files in numeric order; raises InputError for the same case in two formats."""
    paths = [path for path in visible(folder) if is_volume_file(path)]
    if ending is not None:
        paths = [path for path in paths if path.name.endswith(ending)]
    for one, other in pairwise(paths):
        if case_name(one) == case_name(other):
            raise InputError(f"{one}: also there as {other.name}, expected one file per case.")
    return paths


def numeric(name: str) -> tuple[list[str | int], str]:
    """A key that sorts the numbers in names as numbers."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, name
