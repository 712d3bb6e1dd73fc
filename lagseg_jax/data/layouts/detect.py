"""Finds the cases of one dataset, in the layout that its folder has, and reads them in place."""

from collections.abc import Sequence
from pathlib import Path

from lagseg_jax.data.cases import Case, Dataset, folders, visible, with_folders_below
from lagseg_jax.data.layouts.case_table import is_table, table_cases, table_path
from lagseg_jax.data.layouts.known import LAYOUTS, NAMINGS, SERIES, Layout, unknown_layout
from lagseg_jax.data.layouts.naming import Pattern, only_images, paired_cases
from lagseg_jax.imaging.volume import is_volume_file
from lagseg_jax.runtime.errors import InputError

Found = tuple[str, Path, list[Case]]  # layout in words, folder, cases with label or without


def detect(
    root: str | Path, images: str = "", labels: str = "", option: str = "config.data."
) -> Dataset:
    """Finds the one dataset in `root` or in a folder up to two levels below it.

    Args:
        root: of the dataset; "" for the folder of a table.
        images: a pattern with one wildcard below `root`, or the path of a CSV (`case_table`); "":
            the layout is recognised.
        labels: a pattern, if `images` is one.
        option: how the names of the options begin, for messages.

    Raises:
        InputError: no such folder, empty folder, unknown layout, several datasets under `root`
            (both LAScarQS tasks, say), names that do not fit, or no label at all.
    """
    root = Path(root)
    _check_folder(root, option)
    table = table_path(root, images, f"{option}images") if is_table(images) else None
    if images and not labels and table is None:
        raise InputError(
            f"{option}images is {images!r} and {option}labels is empty, expected both patterns"
        )
    given = find_named(root, images, labels, option)
    found, others = [], []
    for layout, folder, cases in [given] if given else find_layouts(root):
        labelled = [case for case in cases if case.label is not None]
        others += [case for case in cases if case.label is None]
        found += [(layout, folder, labelled)] if labelled else []
    if len(found) > 1:
        several = ", ".join(str(folder) for _, folder, _ in found)
        raise InputError(
            f"{root}: several datasets found, expected the name of one, or of several as A B after "
            f"check and \"('A','B')\" elsewhere: {several}."
        )
    if not found:
        if others:
            raise InputError(
                f"{root}: images without labels ({others[0].image}) found, expected some with, "
                f"such as {' or '.join(layout.label for layout in LAYOUTS[:2])}."
            )
        raise unknown_layout(root, option)
    layout, folder, cases = found[0]
    patients = str(table) if any(case.patient != case.name for case in cases) else ""
    passed = () if given else _passed_over(root, cases + others)
    return Dataset(layout, folder, cases, others, patients=patients, passed=passed)


def _check_folder(root: Path, option: str) -> None:
    if is_table(root.name) and root.is_file():
        raise InputError(
            f"{root}: a file, expected the folder of a dataset; a table of cases is named by "
            f"{option}images={root}, after that folder."
        )
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, expected that of a dataset.")


def _passed_over(root: Path, cases: Sequence[Case]) -> tuple[Path, ...]:
    """The folders at `root` and down to four levels below that hold only volumes of no case."""
    files = [file for case in cases for file in (case.image, case.label) if file is not None]
    read = {file.parent for file in files} | set(files)  # a DICOM series is a folder
    return tuple(
        folder
        for folder in with_folders_below(root)
        if folder not in read and any(map(is_volume_file, visible(folder)))
    )


def find_named(root: Path, images: str, labels: str, option: str) -> Found | None:
    """The cases that the user names; None where he names nothing.

    Raises:
        InputError: labels without images or beside a table, or names that do not fit.
    """
    if is_table(images):
        if labels:
            raise InputError(
                f"{option}images is {images!r}, a table that names the labels, and {option}labels "
                f"is {labels!r}, expected one of them"
            )
        path = table_path(root, images, f"{option}images")
        return f"table {path}", root, table_cases(root, path)
    if labels and not images:
        raise InputError(
            f"{option}labels is {labels!r} and {option}images is empty, expected both patterns"
        )
    if not images:
        return None
    found = Pattern(images, f"{option}images")
    if not labels:
        return f"{images} without labels", root, only_images(root, found)
    cases = paired_cases(root, found, Pattern(labels, f"{option}labels"))
    return f"{images} with {labels}", root, cases


def find_layouts(root: Path, series: bool = True) -> list[Found]:
    """Layout, folder and cases, labelled or not, of every dataset in `root` or two levels below.

    Args:
        root: the folder.
        series: whether folders of DICOM files with labels are a dataset, too.

    Raises:
        InputError: a damaged `dataset.json`, the same case in two formats, or a DICOM series with
            several labels.
    """
    levels = [[root]]
    for _ in range(2):
        levels.append([below for folder in levels[-1] for below in folders(folder)])
    found: list[Found] = []
    for folder in [folder for level in levels for folder in level]:
        found += _recognised(folder, LAYOUTS)
    for level in levels:
        found = found or [one for folder in level for one in _recognised(folder, NAMINGS)]
    for level in levels if series else []:
        found = found or [one for folder in level for one in _recognised(folder, SERIES)]
    return found


def _recognised(folder: Path, layouts: Sequence[Layout]) -> list[Found]:
    """What the first layout that recognises the folder finds there, or nothing."""
    for layout in layouts:
        if (read := layout.read(folder)) is not None:
            names, cases = read
            return [(f"{layout.name} ({names})" if names else layout.name, folder, cases)]
    return []
