"""What the U-Net of the accuracy benchmark trains on, and how its test cases are judged."""

from pathlib import Path

import ml_collections
import numpy as np

from lagseg_jax.data.cases import Case
from lagseg_jax.evaluation.metrics import case_metrics
from lagseg_jax.imaging.labels import LabelRule, read_image_and_label
from lagseg_jax.imaging.masks import clean_mask
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.slices import (
    from_slices,
    network_images,
    network_masks,
    restore_matrices,
    to_slices,
)
from lagseg_jax.reports.study_table import METRICS

MULTIPLE = 16  # of the size of its images: four times halved


def read_cases(
    data: ml_collections.ConfigDict, size: int | None, split: dict[str, list[Case]]
) -> dict[str, list[dict]]:
    """Slices of the training and test cases as the U-Net gets them: images, masks, geometry.

    Args:
        data: `config.data` of our arms.
        size: of the images; None: ours, or the next multiple of 16 above.
        split: the cases of every part.
    """
    size = size or -(-data.image_size // MULTIPLE) * MULTIPLE
    return {
        part: [_read_case(data, size, case) for case in split[part]] for part in ("train", "test")
    }


def _read_case(data: ml_collections.ConfigDict, size: int, case: Case) -> dict:
    rule = LabelRule(data.label_value, data.label_threshold)
    image, label = read_image_and_label(case.image, case.label, rule, Reading.of(data))
    slices, geometry = to_slices(image.array, image.affine)
    labels, _ = to_slices(label.array, label.affine)
    return {
        "name": case.name,
        "images": network_images(slices, size, tuple(data.clip_percentiles), tuple(data.window)),
        "masks": network_masks(labels, size),
        "truth": label.array,
        "spacing": image.spacing,
        "geometry": geometry,
        "shape": slices.shape[1:],
    }


def write_slices(path: Path, cases: dict[str, list[dict]]) -> None:
    """What the PyTorch worker reads: it needs no other library than NumPy for it."""
    arrays = {f"test/{case['name']}": case["images"].astype(np.float16) for case in cases["test"]}
    for name, dtype in (("images", np.float16), ("masks", np.uint8)):
        arrays[name] = np.concatenate([case[name].astype(dtype) for case in cases["train"]])
    np.savez(path, **arrays)


def judge(path: Path, cases: list[dict]) -> dict[str, dict[str, float]]:
    """Probabilities (Z, E, E) of the test cases -> the metrics, by the rules of our prediction."""
    found = {}
    with np.load(path) as probabilities:
        for case in cases:
            probability = probabilities[case["name"]].astype(np.float32)
            rows, columns = restore_matrices(*case["shape"], probability.shape[1])
            slices = (rows @ probability @ columns.T >= 0.5).astype(np.uint8)
            mask = clean_mask(from_slices(slices, case["geometry"]), case["spacing"], keep=1)
            axis = case["geometry"].volume_axis
            scores = case_metrics(case["truth"], mask, case["spacing"], axis)
            found[case["name"]] = {metric: float(scores[metric]) for metric in METRICS}
    return found
