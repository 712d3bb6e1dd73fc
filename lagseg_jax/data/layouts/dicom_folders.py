"""Recognises datasets whose images are folders of DICOM files, each with a label beside it.

Such folders are a dataset only if some of them have a label; else they are scans to be predicted.
"""

from collections.abc import Iterable
from pathlib import Path

from lagseg_jax.data.cases import Case, Recognised, folders, visible
from lagseg_jax.data.layouts.pairs import IMAGE_FOLDERS, LABEL_FOLDERS, is_label
from lagseg_jax.imaging.dicom_files import is_dicom_file, series_folders
from lagseg_jax.imaging.volume import case_name, is_volume_file
from lagseg_jax.runtime.errors import InputError


def series_beside_labels(folder: Path) -> Recognised | None:
    """`images/P1/*.dcm` and `labels/P1.nii.gz`, or a segmentation object `labels/P1.dcm`.

    Raises:
        InputError: several labels of one case.
    """
    below = {entry.name.lower(): entry for entry in folders(folder)}
    ours, theirs = ([below[n] for n in s if n in below] for s in (IMAGE_FOLDERS, LABEL_FOLDERS))
    if len(ours) != 1 or len(theirs) != 1:
        return None
    series = {one.name: found for one in folders(ours[0]) if (found := _series(one))}
    labels: dict[str, list[Path]] = {name: [] for name in series}
    for path in visible(theirs[0]):
        name = path.name if path.is_dir() else case_name(path).removesuffix(".dcm")
        labels.setdefault(name, []).extend(_labels(visible(path) if path.is_dir() else [path]))
    if not any(labels[name] for name in series):
        return None
    cases = []
    for name, files in labels.items():
        if name in series or files:
            image = series.get(name, ours[0] / name)
            label = _only(image, files) or theirs[0] / f"{name}.nii.gz"
            cases.append(Case(name, name, image, label))
    return f"DICOM in {ours[0].name}/*, labels in {theirs[0].name}/", cases


def series_per_patient(folder: Path) -> Recognised | None:
    """`P1/*.dcm` beside `P1/la_seg.nii.gz` or a segmentation object `P1/seg.dcm`.

    The label may be any volume or DICOM file whose name says so, and the series may lie in a
    folder of its own.

    Raises:
        InputError: several labels in one patient's folder.
    """
    cases = []
    for one in folders(folder):
        if (series := _series(one)) is not None:
            places = [one, *(b for b in folders(one) if b.name.lower() in LABEL_FOLDERS)]
            files = [file for place in places for file in visible(place)]
            named = [f for f in files if is_label(f.parent.name) or is_label(_stem(f))]
            cases.append(Case(one.name, one.name, series, _only(series, _labels(named))))
    if not any(case.label for case in cases):
        return None
    return "DICOM and its label in */", cases


def _series(folder: Path) -> Path | None:
    """The folder at or below it that holds images; itself where there are several."""
    held = [
        below
        for below in series_folders(folder)
        if any(not is_label(_stem(f)) and is_dicom_file(f) for f in visible(below))
        and (below == folder or below.name.lower() not in LABEL_FOLDERS)
    ]
    return held[0] if len(held) == 1 else folder if held else None


def _labels(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if is_volume_file(file) or is_dicom_file(file)]


def _only(image: Path, labels: list[Path]) -> Path | None:
    """The label of an image, if there is one; raises InputError for several."""
    if len(labels) > 1:
        listed = ", ".join(map(str, labels[:5])) + ", ..." * bool(labels[5:])
        raise InputError(
            f"{image}: a DICOM series with {len(labels)} labels found ({listed}), expected one; a "
            "table of cases (cases.csv) can name it"
        )
    return labels[0] if labels else None


def _stem(file: Path) -> str:
    return case_name(file).removesuffix(".dcm")
