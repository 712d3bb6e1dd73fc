"""workdir -> a function from a volume (x, y, z) to its atrium mask (x, y, z).

Everything from the slice's grey values to the probability on the slice's own grid is one compiled
function: normalising, padding and resizing (two matrix products), encoder, fusion, decoder, and
resizing back.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from lagseg_jax.checkpoint import Checkpoints
from lagseg_jax.devices import replicated, split_batch, use_compilation_cache
from lagseg_jax.errors import InputError
from lagseg_jax.frozen import FrozenEncoder, load_frozen_encoder
from lagseg_jax.metrics import largest_component
from lagseg_jax.model import Model, build_model
from lagseg_jax.slices import from_slices, grey_range, resize_matrices, restore_matrices, to_slices
from lagseg_jax.workdir import read_config

BUCKET = 64  # slice sizes are padded to multiples of this: few sizes, few compilations
STORED_DTYPES = ("uint8", "int16", "uint16", "float32")  # go to the device as they are


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A trained model, ready for volumes.

    Attributes:
        config: of the run.
        model: encoder and head.
        encoder: the frozen weights.
        head_params: trained parameters, on all local devices.
        step: training step of the parameters.
    """

    config: ml_collections.ConfigDict
    model: Model
    encoder: FrozenEncoder
    head_params: dict
    step: int

    def predict_volume(
        self,
        volume: np.ndarray,
        spacing: Sequence[float],
        affine: np.ndarray | None = None,
        components: int | None = None,
    ) -> np.ndarray:
        """Segments the left atrium.

        Args:
            volume: (x, y, z) grey values, any numeric dtype; as in NIfTI, indices grow towards the
                patient's right, front and head, unless `affine` says otherwise.
            spacing: voxel spacing in mm along x, y and z.
            affine: (4, 4) voxel index -> scanner position in mm (RAS). Pass it where there is one:
                a volume whose axes run otherwise is not recognised as such without it.
            components: connected components kept, largest first, 0 for all; by default
                `config.predict.components`.

        Returns:
            Mask (x, y, z), uint8: 1 is atrium.

        Raises:
            InputError: the volume is not three-dimensional, or has values that are not finite.
        """
        probability = self.predict_probability(volume, spacing, affine)
        mask = (probability >= self.config.predict.threshold).astype(np.uint8)
        keep = self.config.predict.components if components is None else components
        return largest_component(mask, keep).astype(np.uint8)

    def predict_probability(
        self, volume: np.ndarray, spacing: Sequence[float], affine: np.ndarray | None = None
    ) -> np.ndarray:
        """The probability of atrium (x, y, z), float32; arguments as in predict_volume."""
        volume = np.asarray(volume)
        if volume.ndim != 3 or 0 in volume.shape:
            raise InputError(f"the volume has shape {volume.shape}, expected three axes x, y, z")
        if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
            raise InputError(f"the spacing is {tuple(spacing)}, expected three lengths in mm")
        if volume.dtype.name not in STORED_DTYPES:
            volume = volume.astype(np.float32)
        if volume.dtype == np.float32 and not np.isfinite(volume).all():
            raise InputError("the volume has voxels that are NaN or infinite, expected finite ones")
        affine = np.diag([*spacing, 1.0]) if affine is None else affine
        slices, geometry = to_slices(volume, affine)
        return from_slices(self._slice_probability(slices), geometry)

    def _slice_probability(self, slices: np.ndarray) -> np.ndarray:
        """Slices (Z, H, W) -> probability (Z, H, W), float32."""
        count, height, width = slices.shape
        padded = [-(-n // BUCKET) * BUCKET for n in (height, width)]
        size = self.config.data.image_size
        there = resize_matrices(height, width, size)
        back = restore_matrices(height, width, size)
        # Zero columns (rows) in the matrices make the padding of the slices irrelevant.
        there = [np.pad(m, ((0, 0), (0, p - m.shape[1]))) for m, p in zip(there, padded)]
        back = [np.pad(m, ((0, p - m.shape[0]), (0, 0))) for m, p in zip(back, padded)]
        grey = np.array(grey_range(slices, self.config.data.clip_percentiles), np.float32)
        settings = jax.device_put((there, back, grey))
        batch = self.config.predict.batch_size * jax.local_device_count()
        result = np.empty(slices.shape, np.float32)
        pending = None
        for start in range(0, count, batch):
            block = np.zeros((batch, *padded), slices.dtype)
            part = slices[start : start + batch]
            block[: len(part), :height, :width] = part
            output = self._compiled(
                self.encoder.params, self.head_params, split_batch(block), *settings
            )
            # Fetch the batch before while this one runs.
            if pending is not None:
                _store(result, *pending)
            pending = start, output
        _store(result, *pending)
        return result

    @functools.cached_property
    def _compiled(self):
        return jax.jit(functools.partial(slice_probability, self.model))


def _store(result: np.ndarray, start: int, output: jax.Array) -> None:
    target = result[start : start + len(output)]
    target[...] = np.asarray(output)[: len(target), : target.shape[1], : target.shape[2]]


def slice_probability(model: Model, encoder_params, head_params, slices, there, back, grey):
    """Grey slices (B, H, W) of any dtype -> probability of atrium (B, H, W), float32.

    Args:
        model: encoder and head (static).
        encoder_params: of the encoder.
        head_params: of the head.
        slices: as stored in the volume.
        there: `rows (S, H)` and `columns (S, W)` of `slices.resize_matrices`.
        back: `rows (H, S)` and `columns (W, S)` of `slices.restore_matrices`.
        grey: (2,) the values that become 0 and 1.
    """
    images = jnp.clip((slices.astype(jnp.float32) - grey[0]) / (grey[1] - grey[0]), 0, 1)
    images = _product(there[0], images, there[1])
    return _product(back[0], model.probability(encoder_params, head_params, images), back[1])


def _product(rows, images, columns):
    return jnp.einsum("ij,bjk,lk->bil", rows, images, columns, precision="highest")


def load_segmenter(workdir: str | Path, weights: str | None = None) -> Segmenter:
    """Loads the best checkpoint of a run.

    Args:
        workdir: folder of a finished or unfinished training run.
        weights: folder of the converted encoder weights, if they moved since the training.

    Raises:
        InputError: the folder is not a run, has no checkpoint, or the encoder is another one.
    """
    workdir = Path(workdir)
    use_compilation_cache()
    config = read_config(workdir)
    if weights is not None:
        config.encoder.weights = str(weights)
    encoder = load_frozen_encoder(config)
    return restore_segmenter(config, workdir, encoder)


def restore_segmenter(
    config: ml_collections.ConfigDict, workdir: Path, encoder: FrozenEncoder
) -> Segmenter:
    """As `load_segmenter`, with the encoder already loaded."""
    model = build_model(config, encoder.spec)
    checkpoints = Checkpoints(workdir, encoder.sha256, read_only=True)
    best = checkpoints.best()
    step = best[0] if best else checkpoints.newest()
    if step is None:
        raise InputError(f"{workdir} has no checkpoint, expected a folder where training has run")
    init = functools.partial(model.init_head, image_size=config.data.image_size)
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated()),
        jax.eval_shape(init, jax.random.key(0)),
    )
    params = checkpoints.restore_params(step, like)
    checkpoints.close()
    return Segmenter(config, model, encoder, params, step)
