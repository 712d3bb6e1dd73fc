"""A segmenter for the loop over cases, whose model is a function."""

from types import SimpleNamespace

import numpy as np

from lagseg_jax.inference.postprocess import PostProcessing


def segmenter_of(compute, window=()):
    """`compute` gives the mask; nothing is cut or cleaned."""
    return SimpleNamespace(
        postprocessing=PostProcessing(0.25, 2, 1.5),
        encoder=SimpleNamespace(warning=""),
        config=SimpleNamespace(data=SimpleNamespace(window=window)),
        plane="",
        estimator=None,
        remarks=lambda volume: [],
        cut=lambda array, affine, what: array,
        compute=compute,
        finish=lambda mask, affine, post: (mask, None),
    )


def segmenter_of_probability(probability, threshold=0.5):
    """Gives this probability for every image."""
    segmenter = segmenter_of(lambda *_: probability)
    segmenter.postprocessing = PostProcessing(threshold)
    segmenter.finish = lambda found, affine, post: (post.mask(found, affine), found)
    return segmenter


def ball(shape, centre, highest):
    """Probability (x, y, z) that falls by 0.1 per voxel, from `highest` in the centre."""
    distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(np.indices(shape), centre)))
    return np.clip(highest - distance / 10, 0, 1).astype(np.float32)
