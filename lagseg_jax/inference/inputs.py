"""Finds the volumes to predict at a path."""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lagseg_jax.data.layouts.detect import Found, find_layouts, find_named
from lagseg_jax.data.layouts.pairs import pairs_in_a_folder
from lagseg_jax.imaging.dicom_files import is_dicom_file, is_zip, series_folders
from lagseg_jax.imaging.volume import case_name, is_volume_file
from lagseg_jax.inference.input_volume import Input
from lagseg_jax.inference.records import is_recorded
from lagseg_jax.inference.study_inputs import study_inputs
from lagseg_jax.runtime.console import count_of
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import short_name

log = logging.getLogger(__name__)

MASK_NAME = re.compile(
    r"(.+?)[-_. ](?:seg|mask|label|segmentation|labels|laseg|la[-_. ]seg|lab)",
    re.IGNORECASE | re.DOTALL,
)


def find_inputs(
    path: Path, pattern: str = "", images: str = "", series: str = "", allow: Sequence[str] = ()
) -> list[Input]:
    """What there is to predict at `path`.

    A file; the files of a pattern; the volume files in a folder, masks under their names; else the
    cases of the datasets (`data.layouts`, with labels or without) in it, masks named by case; else
    one series of each DICOM study in it and in folders below, or in a zip archive, masks named by
    folder, as .nii.gz. What `predict` made itself, and `CASE_seg`, `CASE_laseg`,
    `CASE_mask` or `CASE_label` beside CASE, is skipped with a line.

    Args:
        path: of a file or folder.
        pattern: of the files in the folder, such as `*_image.nii.gz`: in all folders below, too,
            unless it has a slash. Masks are named by folder and file.
        images: as in `layouts.detect.detect`: a pattern whose wildcard names the masks, or a CSV.
        series: of DICOM studies, as in `dicom_choice.take`.
        allow: what DICOM series may have, as in `find_studies`.

    Raises:
        InputError: nothing is there, data lie on two levels, two cases have the same name, the
            one study there has no series that can be used, or `series` without any DICOM.
    """
    if pattern and images:
        raise InputError(
            f"--pattern is {pattern!r} and --images is {images!r}, expected one of them"
        )
    if images:
        named = find_named(path, images, "", "--")
        inputs = _of_dataset([named] if named else [])
    else:
        inputs = _matching(path, pattern) if pattern else _find(path, series, allow)
    if series and any(one.stack is None and not one.problem for one in inputs):
        raise InputError(f"--series is {series!r}, but {path} has no DICOM studies, expected some")
    seen: dict[str, Input] = {}
    for one in inputs:
        if (other := seen.setdefault(one.name, one)) is not one:
            raise InputError(
                f"{one.source} and {other.source} are both named {one.name}, expected each case "
                "once; name the folder of one dataset, or one file"
            )
    return inputs


def _find(path: Path, series: str, allow: Sequence[str]) -> list[Input]:
    if is_zip(path) or is_dicom_file(path):
        return study_inputs(path, series, allow)
    if path.is_file():
        if is_recorded(path):
            raise InputError(f"{path} was made by predict, expected an image")
        return [Input(path, _short(path.name))]
    if not path.is_dir():
        raise InputError(f"{path} does not exist, expected a volume file or a folder of them")
    if files := _images(f for f in path.iterdir() if is_volume_file(f)):
        if (other := _deeper(path)) is not None:
            raise InputError(
                f"{path} has data on two levels, {files[0].name} and {other.relative_to(path)}, "
                "expected one: name a folder, or the files with --pattern ('./*.nii.gz' for those "
                "right in it, '*.nii.gz' for all)"
            )
        if (paired := pairs_in_a_folder(path, files)) is not None:
            return _of_dataset([(f"pairs of files ({paired[0]})", path, paired[1])])
        return [Input(file, _short(file.name)) for file in files]
    return _of_dataset(find_layouts(path, series=False)) or study_inputs(path, series, allow)


def _of_dataset(found: Sequence[Found]) -> list[Input]:
    """The images of the datasets, with labels or without."""
    inputs = []
    for layout, folder, cases in found:
        log.info("input: %s at %s, %s", layout, folder, count_of(len(cases), "case"))
        for case in cases:
            if not os.path.lexists(case.image):
                log.info("%s: skipped, a label without its image %s", case.label, case.image)
                continue
            suffix = case.image.name[len(case_name(case.image)) :] or ".nii.gz"  # of a folder
            inputs.append(Input(case.image, short_name(case.name) + suffix, case.label))
    return inputs


def _matching(path: Path, pattern: str) -> list[Input]:
    """The images of a pattern, named by their folders below `path`."""
    if not path.is_dir():
        raise InputError(f"--pattern is {pattern!r} but {path} is no folder, expected one")
    try:
        found = list(path.glob(pattern) if "/" in pattern else path.rglob(pattern))
    except (ValueError, NotImplementedError) as error:  # pathlib's for "**a", and for "/a"
        raise InputError(
            f"--pattern is {pattern!r} ({error}), expected one such as '*_image.nii.gz'"
        ) from None
    files = _images(f for f in found if is_volume_file(f) and f.is_file())
    if not files:
        raise InputError(f"{path} has no volume files that match --pattern={pattern}")
    return [Input(file, _short("_".join(file.relative_to(path).parts))) for file in files]


def _short(name: str) -> str:
    """A mask's name for a volume file of this name: all its other outputs have room for theirs."""
    return short_name(case_name(name)) + name[len(case_name(name)) :]


def _images(files: Iterable[Path]) -> list[Path]:
    """The files in order without those that are masks by their name or by our record of them."""
    files = sorted(files)
    names = {(file.parent, case_name(file)) for file in files}
    images = []
    for file in files:
        named = MASK_NAME.fullmatch(case_name(file))
        if is_recorded(file):
            log.info("%s: skipped, it was made by predict", file)
        elif named and (file.parent, named[1]) in names:
            log.info("%s: skipped, it is a mask beside the image %s", file, named[1])
        else:
            images.append(file)
    return images


def _deeper(path: Path) -> Path | None:
    """A volume file, or folder of DICOM files, below a folder that has volume files itself."""
    below = [folder for folder in path.iterdir() if folder.is_dir() and folder.name[0] != "."]
    for folder in sorted(below):
        for file in sorted(folder.rglob("*")):
            if is_volume_file(file) and file.is_file() and not is_recorded(file):
                return file
    return next(iter(series_folders(path)), None)
