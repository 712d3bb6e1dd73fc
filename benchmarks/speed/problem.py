"""The model, its random weights and the inputs that all workers of a case get."""

import dataclasses

import jax
import ml_collections
import numpy as np
from scipy import ndimage

from benchmarks.speed.cases import Case
from configs import cpu, default
from lagseg_jax.data.phantom import make_case
from lagseg_jax.imaging.slices import network_images, network_masks, to_slices
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.frozen_encoder import FrozenEncoder
from lagseg_jax.model.segmentation import Model, build_model
from lagseg_jax.model.weights import random_params
from lagseg_jax.runtime.devices import replicate

SPACING = (0.625, 0.625, 1.25)  # mm: between slices, so that they are cut across z


@dataclasses.dataclass(frozen=True)
class Problem:
    """All that the JAX worker times its rows on.

    Attributes:
        config: the recipe; no augmentation, which the peer does not have.
        model: encoder and head.
        encoder: frozen, random weights.
        head_params: trained parameters, not as they start: nothing is zero or equal.
        batch: {image (B, E, E) float16, mask (B, E, E) uint8, slice (B,), case (B,)} on the host.
        volume: (x, y, z) int16.
    """

    config: ml_collections.ConfigDict
    model: Model
    encoder: FrozenEncoder
    head_params: dict
    batch: dict[str, np.ndarray]
    volume: np.ndarray

    def segmenter(self, stride: int = 1) -> Segmenter:
        """The object that users predict with; by default it computes every slice, as the peers."""
        config = self.config.copy_and_resolve_references()
        config.predict.stride = stride
        params = replicate(self.head_params)
        return Segmenter(config, self.model, self.encoder, params, step=0)


def config_of(case: Case) -> ml_collections.ConfigDict:
    """The recipe with the case's model and sizes."""
    config = (cpu if case.variant == "tiny" else default).get_config()
    config.data.image_size = case.size
    config.encoder.variant = case.variant
    config.encoder.dtype = config.decoder.dtype = case.dtype
    config.train.batch_size = case.batch
    config.predict.batch_size = case.predict_batch
    return config


def make_problem(case: Case) -> Problem:
    """Draws everything from fixed seeds."""
    config = config_of(case)
    # Hugging Face's rule for the position embedding, because the peer is theirs.
    spec = EncoderSpec(case.variant, 0, "size")
    params = replicate(random_params(spec, 0, case.dtype))
    encoder = FrozenEncoder(spec, params, "0" * 64, "random (seed 0)", "")
    model = build_model(config, spec)
    rng = np.random.default_rng(0)
    head_params = jax.tree.map(
        lambda x: np.asarray(x) + rng.normal(0, 0.03, x.shape).astype(np.float32),
        model.init_head(jax.random.key(0), case.size),
    )
    volume, label = make_volume(case.shape)
    return Problem(config, model, encoder, head_params, make_batch(config, volume, label), volume)


def make_volume(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A phantom (x, y, z) int16 and its mask, drawn coarsely and enlarged: seconds, not minutes."""
    coarse = [max(8, n // 3) for n in shape]
    spacing = [mm * n / c for mm, n, c in zip(SPACING, shape, coarse)]
    image, label = make_case(np.random.default_rng(1), coarse, spacing)
    zoom = [n / c for n, c in zip(shape, coarse)]
    return ndimage.zoom(image, zoom, order=1), ndimage.zoom(label, zoom, order=0)


def make_batch(
    config: ml_collections.ConfigDict, volume: np.ndarray, label: np.ndarray
) -> dict[str, np.ndarray]:
    """One training batch from the middle of the volume, as the Grain pipeline would give it."""
    size, count = config.data.image_size, config.train.batch_size
    numbers = (np.arange(count) - count // 2 + volume.shape[2] // 2) % volume.shape[2]
    slices, masks = (to_slices(array, np.diag([*SPACING, 1]))[0] for array in (volume, label))
    images = network_images(slices[numbers], size, tuple(config.data.clip_percentiles))
    return {
        "image": images.astype(np.float16),
        "mask": network_masks(masks[numbers], size),
        "slice": numbers.astype(np.int32),
        "case": np.zeros(count, np.int32),
    }
