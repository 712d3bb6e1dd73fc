"""Finds the DICOM series to predict at a path: one of each study."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lagseg_jax.imaging.dicom_choice import take
from lagseg_jax.imaging.dicom_files import check_dicom_support, dicom_files, is_zip
from lagseg_jax.imaging.dicom_study import find_studies
from lagseg_jax.imaging.volume import SUFFIXES
from lagseg_jax.inference.input_volume import Input
from lagseg_jax.runtime.console import count_of
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import short_name

log = logging.getLogger(__name__)


def study_inputs(path: Path, series: str, allow: Sequence[str]) -> list[Input]:
    """One input for each DICOM study at a path, with a line for each of its series."""
    if not any(True for _ in dicom_files(path)):
        raise InputError(
            f"{path} has no volume files, expected some that end in {', '.join(SUFFIXES)}, a known "
            "dataset, DICOM files, or a --pattern"
        )
    check_dicom_support()
    found = find_studies(path, allow)
    log.info("input: %s at %s", count_of(len(found), "DICOM study"), path)
    inputs: dict[str, Input] = {}  # by the UID of the study
    for stacks in found or [[]]:
        if path.is_file() and not is_zip(path) and stacks and len(stacks[0].frames) == 1:
            raise InputError(f"{path} is one DICOM image, expected the folder of its whole series")
        try:
            chosen = take(path, stacks, series)
        except InputError as error:
            if len(found) < 2:
                raise
            folder = Path(os.path.commonpath([stack.folder for stack in stacks]))
            one = Input(folder, _mask_name(path, folder), problem=str(error))
        else:
            one = Input(chosen.folder, _mask_name(path, chosen.folder), stack=chosen)
        inputs[stacks[0].key[0]] = one
    return _told_apart(inputs)


def _mask_name(path: Path, folder: Path) -> str:
    """By the folders of the series below `path`, without the endings of archives."""
    root = path.resolve().name
    # Links are not followed here: they may lead out of `path`.
    parts = folder.relative_to(path).parts if folder.is_relative_to(path) else ()
    names = [part.removesuffix(".zip") for part in parts] or [root.removesuffix(".zip")]
    if is_zip(path) and parts:
        names = [root.removesuffix(".zip"), *names]
    return f"{short_name('_'.join(names))}.nii.gz"


def _told_apart(inputs: dict[str, Input]) -> list[Input]:
    """Several studies in one folder get the end of their UID into their names."""
    names = [one.mask_name for one in inputs.values()]
    return [
        replace(one, mask_name=f"{one.name}_{uid[-8:]}.nii.gz")
        if names.count(one.mask_name) > 1
        else one
        for uid, one in inputs.items()
    ]
