"""Predicts the mask of a case together with what its segmenter estimates of it."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lagseg_jax.inference.given import voxels_and_affine
from lagseg_jax.inference.postprocess import PostProcessing

if TYPE_CHECKING:  # it loads jax
    from lagseg_jax.inference.segmenter import Segmenter


def predict_estimated(
    segmenter: "Segmenter", image: np.ndarray, affine: np.ndarray, tta: bool, post: PostProcessing
) -> tuple[np.ndarray, dict[str, Any]]:
    """The mask of `Segmenter.predict_volume`, and `uncertainty.COLUMNS` with an estimator."""
    if segmenter.estimator is None:
        return segmenter.predict_volume(image, None, affine, tta, post), {}
    mask, probability = mask_and_probability(segmenter, image, affine, tta, post)
    return mask, estimates_of(segmenter, image, affine, mask, probability, post)


def mask_and_probability(
    segmenter: "Segmenter", image: np.ndarray, affine: np.ndarray, tta: bool, post: PostProcessing
) -> tuple[np.ndarray, np.ndarray]:
    """The mask of `Segmenter.predict_volume`, and its probability, 0 in slices left out."""
    cut = segmenter.cut(*voxels_and_affine(image, None, affine))
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
