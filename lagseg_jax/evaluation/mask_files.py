"""Finds masks and the truth that they are compared with, by case."""

from pathlib import Path

from lagseg_jax.data.cases import Case
from lagseg_jax.data.datasets import find_datasets, labelled
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.data.layouts.naming import Pattern, only_images
from lagseg_jax.data.layouts.pairs import pairs_in_a_folder
from lagseg_jax.data.split import read_split
from lagseg_jax.imaging.volume import SUFFIXES, case_name, is_volume_file
from lagseg_jax.runtime.console import count_of, log
from lagseg_jax.runtime.errors import InputError


def find_masks(folder: Path) -> dict[str, Path]:
    """{case: file} of the volume files in a folder.

    Raises:
        InputError: no folder, no volume file, or a case in two formats.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected masks named by case.")
    masks: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_volume_file(path):
            other = masks.setdefault(case_name(path), path)
            if other is not path:
                raise InputError(f"{path}: also there as {other.name}, expected one file per case.")
    if not masks:
        raise InputError(f"{folder}: no masks found, expected files in {', '.join(SUFFIXES)}.")
    return masks


def find_truth(
    folder: str | Path | tuple[str, ...],
    split: str | Path | None = None,
    images: str | tuple[str, ...] = "",
    labels: str | tuple[str, ...] = "",
) -> dict[str, Path]:
    """{case: label} of a folder of labels or of a dataset.

    Args:
        folder: of either; NAME=FOLDER or several as in `find_datasets`, to which a run's names fit.
        split: splits.json of a run, whose test part counts.
        images: of a dataset, as in `layouts.detect.detect`.
        labels: the same; without `images`, the names of the label files alone.

    Raises:
        InputError: neither, names that do not fit, or the split is of another dataset.
    """
    found = _find_labels(folder, images, labels)
    if split is None:
        return found
    cases = [Case(name, name, path, path) for name, path in found.items()]
    return {name: found[name] for name in read_split(split, cases)["test"]}


def _find_labels(
    root: str | Path | tuple[str, ...], images: str | tuple[str, ...], labels: str | tuple[str, ...]
) -> dict[str, Path]:
    named = "=" in str(root) and not isinstance(root, tuple) and not Path(root).is_dir()
    if isinstance(root, tuple) or isinstance(images, tuple) or isinstance(labels, tuple) or named:
        several = root if isinstance(root, tuple) else str(root)
        datasets = find_datasets(several, images, labels, option="--")
        return {case.name: case.label for case in labelled(datasets) if case.label}
    folder = Path(root)
    if labels and not images:
        return {c.name: c.image for c in only_images(folder, Pattern(labels, "--labels"))}
    files = folder.is_dir() and any(is_volume_file(path) for path in folder.iterdir())
    if files and not images and pairs_in_a_folder(folder) is None:
        return find_masks(folder)
    dataset = detect(folder, images, labels, "--")
    cases = count_of(len(dataset.cases), "case")
    log.info("truth: %s at %s, %s", dataset.layout, dataset.root, cases)
    return {case.name: case.label for case in dataset.cases if case.label}
