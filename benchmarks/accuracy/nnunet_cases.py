"""What nnU-Net of the accuracy benchmark trains on, and how its masks are judged."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_collections

from lagseg_jax.data.cases import Case
from lagseg_jax.evaluation.evaluate import read_labelled
from lagseg_jax.evaluation.metrics import case_metrics
from lagseg_jax.evaluation.nnunet_export import export_dataset
from lagseg_jax.imaging.masks import clean_mask
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.volume import on_grid_of, read_volume
from lagseg_jax.reports.study_table import METRICS
from lagseg_jax.runtime.files import short_name

NUMBER = 501
NAME = f"Dataset{NUMBER}_LeftAtrium"
PLACES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def write(
    split: Mapping[str, Sequence[Case]], data: ml_collections.ConfigDict, folder: Path
) -> dict[str, str]:
    """Writes the cases and the split for nnU-Net into its three folders below `folder`.

    Returns:
        The environment variables that name them.
    """
    raw = folder / PLACES[0] / NAME
    export_dataset(split, data, raw)
    preprocessed = folder / PLACES[1] / NAME
    preprocessed.mkdir(parents=True)
    (folder / PLACES[2]).mkdir()
    shutil.copy(raw / "splits_final.json", preprocessed)
    return {place: str(folder / place) for place in PLACES}


def judge(
    folder: Path, cases: Sequence[Case], data: ml_collections.ConfigDict
) -> dict[str, dict[str, float]]:
    """Masks of the test cases -> the metrics; the largest component alone counts, as in ours."""
    found = {}
    for case in cases:
        image, label = read_labelled(case, data)
        path = folder / f"{short_name(case.name)}.nii.gz"
        mask = on_grid_of(image, read_volume(path))
        cleaned = clean_mask(mask.array > 0, image.spacing, keep=1)
        axis = to_slices(image.array, image.affine)[1].volume_axis
        scores = case_metrics(label.array, cleaned, image.affine, axis)
        found[case.name] = {metric: float(scores[metric]) for metric in METRICS}
    return found


def remove(folder: Path) -> None:
    """Removes nnU-Net's three folders; its masks and its log stay."""
    for place in PLACES:
        shutil.rmtree(folder / place, ignore_errors=True)
