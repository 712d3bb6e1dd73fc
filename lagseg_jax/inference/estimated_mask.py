"""Predicts the mask of a case together with what its segmenter estimates of it."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.inference.given import as_volume
from lagseg_jax.inference.postprocess import PostProcessing

if TYPE_CHECKING:  # it loads jax
    from lagseg_jax.inference.segmenter import Segmenter


def predict_estimated(
    segmenter: "Segmenter", image: Volume, tta: bool, post: PostProcessing
) -> tuple[np.ndarray, dict[str, Any]]:
    """The mask of `Segmenter.segment`, and `uncertainty.COLUMNS` with an estimator."""
    if segmenter.estimator is None:
        return segmenter.segment(image, tta, post), {}
    place = image.array, image.affine
    mask, probability = mask_and_probability(segmenter, *place, tta, post)
    return mask, estimates_of(segmenter, *place, mask, probability, post)


def mask_and_probability(
    segmenter: "Segmenter", image: np.ndarray, affine: np.ndarray, tta: bool, post: PostProcessing
) -> tuple[np.ndarray, np.ndarray]:
    """The mask of `Segmenter.segment`, and its probability, 0 in slices left out."""
    volume = as_volume(image, None, affine)
    cut = segmenter.cut(volume.array, volume.affine)
    computed = segmenter.compute(cut, tta, post, probable=True)
    mask, probability = segmenter.finish(computed, affine, post)
    assert probability is not None
    return mask, probability


def estimates_of(
    segmenter: "Segmenter",
    image: np.ndarray,
    affine: np.ndarray,
    mask: np.ndarray,
    probability: np.ndarray,
    post: PostProcessing,
) -> dict[str, Any]:
    """`uncertainty.COLUMNS` of a case that is predicted already; nothing without an estimator."""
    if segmenter.estimator is None:
        return {}
    return segmenter.estimator.columns(image, affine, mask, probability, post.threshold)
