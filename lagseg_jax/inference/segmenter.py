"""workdir(s) -> a function from a volume (x, y, z) to its atrium mask (x, y, z).

Everything from the slice's grey values to the probability on the slice's own grid is one compiled
function: normalising, padding and resizing (two matrix products), encoder, fusion, decoder, and
resizing back. Several models are an ensemble: their probabilities are averaged, batch by batch.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from lagseg_jax.imaging.grey_values import grey_range
from lagseg_jax.imaging.masks import clean_mask
from lagseg_jax.imaging.slices import (
    SliceGeometry,
    check_trained_plane,
    from_slices,
    resize_matrices,
    restore_matrices,
    to_slices,
)
from lagseg_jax.inference.postprocess import smooth_across_slices
from lagseg_jax.inference.slice_probability import average_probability, slice_probability
from lagseg_jax.inference.slice_search import search
from lagseg_jax.model.frozen_encoder import FrozenEncoder, load_frozen_encoder
from lagseg_jax.model.lora import LORA
from lagseg_jax.model.segmentation import Model, build_model
from lagseg_jax.model.weights import read_card
from lagseg_jax.runs.checkpoint import Checkpoints
from lagseg_jax.runs.planes import read_planes
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.devices import replicated, split_batch, use_compilation_cache
from lagseg_jax.runtime.errors import InputError

BUCKET = 64  # slice sizes are padded to multiples of this: few sizes, few compilations
STORED_DTYPES = ("uint8", "int16", "uint16", "float32")  # go to the device as they are


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A trained model, or several of them, ready for volumes.

    Attributes:
        config: of the run.
        model: encoder and head.
        encoder: its weights, with the adapter merged in if the run has one.
        head_params: trained parameters, on all local devices.
        step: training step of the parameters.
        partners: further models, of any image size and encoder, whose probabilities are averaged
            with this one's; their `config.predict` does not count.
        planes: of the slices it was trained on; none: not known.
        plane: that volumes are cut in; "": as `slices.through_plane` says, if it was trained on.
    """

    config: ml_collections.ConfigDict
    model: Model
    encoder: FrozenEncoder
    head_params: dict
    step: int
    partners: tuple["Segmenter", ...] = ()
    planes: tuple[str, ...] = ()
    plane: str = ""

    def predict_volume(
        self,
        volume: np.ndarray,
        spacing: Sequence[float],
        affine: np.ndarray | None = None,
        components: int | None = None,
        min_mm3: float = 0.0,
        tta: bool = False,
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
            min_mm3: components smaller than this go.
            tta: average over the four in-plane mirrorings, at four times the computing.

        Returns:
            Mask (x, y, z), uint8: 1 where the probability is `config.predict.threshold` or more.

        Raises:
            InputError: the volume is not three-dimensional, or has values that are not finite.
        """
        mask = self.raw_mask(volume, spacing, affine, components, tta)
        return self.clean(mask, spacing, components, min_mm3)

    def raw_mask(
        self,
        volume: np.ndarray,
        spacing: Sequence[float],
        affine: np.ndarray | None = None,
        components: int | None = None,
        tta: bool = False,
    ) -> np.ndarray:
        """The mask from which `clean` is still to take components; arguments as in predict_volume.

        Where one component is to be kept, slices far from it are not computed, and stay 0, as
        `config.predict.stride` says (see `slice_search`). Smoothing needs all of them.
        """
        predict = self.config.predict
        if self._smooth_mm():
            probability = self.predict_probability(volume, spacing, affine, tta)
            return (probability >= predict.threshold).view(np.uint8)
        keep = predict.components if components is None else components
        stride = predict.get("stride", 1) if keep == 1 else 1
        # Compared on the device: a whole volume of probabilities would be the largest array here.
        return self._predict(volume, spacing, affine, tta, predict.threshold, stride)

    def predict_probability(
        self,
        volume: np.ndarray,
        spacing: Sequence[float],
        affine: np.ndarray | None = None,
        tta: bool = False,
    ) -> np.ndarray:
        """The probability of atrium (x, y, z), float32, to which the threshold is applied.

        Arguments as in predict_volume; smoothed as `config.predict.smooth_mm` says.
        """
        probability = self._predict(volume, spacing, affine, tta, None)
        affine = np.diag([*spacing, 1.0]) if affine is None else affine
        return smooth_across_slices(probability, affine, self._smooth_mm(), self.plane)

    def clean(
        self,
        mask: np.ndarray,
        spacing: Sequence[float],
        components: int | None = None,
        min_mm3: float = 0.0,
    ) -> np.ndarray:
        """The mask without small components; arguments as in predict_volume."""
        keep = self.config.predict.components if components is None else components
        return clean_mask(mask, spacing, keep, min_mm3)

    def fusion_weights(self) -> np.ndarray:
        """How much each encoder block counts at each decoder scale: (S, L), rows sum to 1."""
        params = {"params": self.head_params}
        return np.asarray(self.model.head.apply(params, method="fusion_weights"))

    def check_plane(self, geometry: SliceGeometry, what: str) -> None:
        """Raises InputError for slices in a plane that a member was not trained on, unless told."""
        for member in (self, *self.partners):
            check_trained_plane(geometry, () if self.plane else member.planes, what)

    def _smooth_mm(self) -> float:
        return self.config.predict.get("smooth_mm", 0.0)  # older runs do not have it

    def _predict(self, volume, spacing, affine, tta, threshold, stride: int = 1) -> np.ndarray:
        """Volume -> probability (x, y, z) float32, or uint8 where it is compared to a threshold."""
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
        slices, geometry = to_slices(volume, affine, self.plane)
        self.check_plane(geometry, "the volume")
        return from_slices(self._predict_slices(slices, tta, threshold, stride), geometry)

    def _predict_slices(self, slices: np.ndarray, tta: bool, threshold, stride: int) -> np.ndarray:
        """Slices (Z, H, W) -> the same as `_predict` for each."""
        count, height, width = slices.shape
        padded = [-(-n // BUCKET) * BUCKET for n in (height, width)]
        members = (self, *self.partners)
        settings = [member._settings(slices, padded) for member in members]
        batch = self.config.predict.batch_size * jax.local_device_count()
        result = np.zeros(slices.shape, np.float32 if threshold is None else np.uint8)
        shows = np.zeros(count, bool)
        for wanted in search(shows, stride, batch):
            pending: tuple = ()
            for start in range(0, len(wanted), batch):
                numbers = wanted[start : start + batch]
                block = np.zeros((batch, *padded), slices.dtype)
                block[: len(numbers), :height, :width] = slices[numbers]
                block = split_batch(block)
                outputs = [
                    slice_probability(
                        m.model, m.encoder.params, m.head_params, block, there, back, grey, tta
                    )
                    for m, (there, back, grey) in zip(members, settings)
                ]
                output = average_probability(outputs, threshold)
                # Fetch the batch before while this one runs.
                if pending:
                    _store(result, *pending)
                pending = numbers, output
            _store(result, *pending)
            if stride > 1:
                shows[wanted] = [result[number].any() for number in wanted]
        return result

    def _settings(self, slices: np.ndarray, padded: Sequence[int]) -> tuple:
        """The arguments `there`, `back` and `grey` of slice_probability for slices (Z, H, W)."""
        size, (height, width) = self.config.data.image_size, slices.shape[1:]
        # Zero columns (rows) in the matrices make the padding of the slices irrelevant.
        there = [
            np.pad(m, ((0, 0), (0, p - m.shape[1])))
            for m, p in zip(resize_matrices(height, width, size), padded)
        ]
        back = [
            np.pad(m, ((0, p - m.shape[0]), (0, 0)))
            for m, p in zip(restore_matrices(height, width, size), padded)
        ]
        grey = np.array(grey_range(slices, self.config.data.clip_percentiles), np.float32)
        return jax.device_put((there, back, grey))


def _store(result: np.ndarray, numbers: np.ndarray, output: jax.Array) -> None:
    height, width = result.shape[1:]
    result[numbers] = np.asarray(output)[: len(numbers), :height, :width]


def load_segmenter(
    workdir: str | Path | Sequence[str | Path], weights: str | Sequence[str] | None = None
) -> Segmenter:
    """Loads the best checkpoint of a run, or of several runs as an ensemble.

    The mean probability of an ensemble is compared to the threshold of the first run, whose
    `config.predict` counts for all. Runs of one encoder share its weights on the device.

    Args:
        workdir: folder of a finished or unfinished training run, or several of them.
        weights: folder of the converted encoder weights, if they moved since the training; one for
            all runs or one for each.

    Raises:
        InputError: a folder is not a run, has no checkpoint, or the encoder is another one.
    """
    workdirs = [Path(w) for w in ([workdir] if isinstance(workdir, str | Path) else workdir)]
    moved = [weights] if weights is None or isinstance(weights, str | Path) else list(weights)
    if len(moved) == 1:
        moved *= len(workdirs)
    if len(moved) != len(workdirs):
        raise InputError(
            f"{len(moved)} folders of weights for {len(workdirs)} workdirs, expected one for all "
            "or one for each"
        )
    use_compilation_cache()
    encoders: dict[tuple, FrozenEncoder] = {}
    members = []
    for folder, place in zip(workdirs, moved):
        config = read_config(folder)
        if place is not None:
            config.encoder.weights = str(place)
        key = _encoder_identity(config.encoder)
        if key not in encoders:
            encoders[key] = load_frozen_encoder(config)
        members.append(restore_segmenter(config, folder, encoders[key]))
    return dataclasses.replace(members[0], partners=tuple(members[1:]))


def _encoder_identity(encoder: ml_collections.ConfigDict) -> tuple:
    """Equal for encoders of equal weights in equal precision, adapted in equal shape."""
    weights = ("random", encoder.seed)
    if encoder.weights:
        card = read_card(encoder.weights)
        weights = (card["sha256"], card["interpolation"])
    adapter = encoder.lora_rank, encoder.lora_blocks
    return encoder.variant, encoder.registers, encoder.dtype, *adapter, *weights


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
    init = functools.partial(model.init_params, image_size=config.data.image_size)
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated()),
        jax.eval_shape(init, jax.random.key(0)),
    )
    params = checkpoints.restore_params(step, like)
    checkpoints.close()
    if model.adapter is not None:
        merged = jax.jit(model.adapted)(encoder.params, params)
        encoder = dataclasses.replace(encoder, params=merged)
        del params[LORA]
    trained = {"planes": read_planes(workdir), "plane": config.data.plane}
    return Segmenter(config, model, encoder, params, step, **trained)
