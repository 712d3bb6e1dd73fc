"""Loads the trained model of one or several runs as a function from a volume to its atrium mask.

Everything from the slice's grey values to the probability on the slice's own grid is one compiled
function: normalising, padding and resizing (two matrix products), encoder, fusion, decoder, and
resizing back. Several models are an ensemble: their probabilities are averaged, batch by batch.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import ml_collections
import numpy as np

from lagseg_jax.imaging.slices import SliceGeometry, check_trained_plane, from_slices, to_slices
from lagseg_jax.inference.estimator import Estimator
from lagseg_jax.inference.given import Given, voxels_and_affine
from lagseg_jax.inference.memory import check_memory, refused_where_memory_ends
from lagseg_jax.inference.postprocess import PostProcessing, smooth_across_slices
from lagseg_jax.inference.slice_probability import (
    average_probability,
    resampling,
    slice_probability,
)
from lagseg_jax.inference.slice_search import search
from lagseg_jax.model.frozen_encoder import FrozenEncoder, load_frozen_encoder
from lagseg_jax.model.lora import LORA
from lagseg_jax.model.segmentation import Model, build_model
from lagseg_jax.model.weights import read_card
from lagseg_jax.runs.best_params import restore_best
from lagseg_jax.runs.init_source import read_source
from lagseg_jax.runs.planes import read_planes
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.devices import split_batch, use_compilation_cache
from lagseg_jax.runtime.errors import InputError

BUCKET = 64  # slice sizes are padded to multiples of this: few sizes, few compilations
Item = TypeVar("Item")


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
        source: the run that this one began with (`init_source.read_source`), or None.
        estimator: of the Dice and the volume of its masks, where that is wanted and known.
    """

    config: ml_collections.ConfigDict
    model: Model
    encoder: FrozenEncoder
    head_params: dict
    step: int
    partners: tuple["Segmenter", ...] = ()
    planes: tuple[str, ...] = ()
    plane: str = ""
    source: dict[str, Any] | None = None
    estimator: Estimator | None = None

    @property
    def postprocessing(self) -> PostProcessing:
        """Threshold, components and smoothing of `config.predict`."""
        return PostProcessing.of(self.config.predict)

    def predict_volume(
        self,
        volume: Given,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        tta: bool = False,
        post: PostProcessing | None = None,
        orientation: str = "",
    ) -> np.ndarray:
        """Segments the left atrium.

        Where one component is to be kept and nothing smoothed, slices far from it are not computed,
        as `config.predict.stride` says (see `slice_search`).

        Args:
            volume: path of a file, nibabel image, or array (x, y, z) of grey values of any real
                dtype and byte order; an array needs its affine, or spacing and orientation.
            spacing: voxel spacing in mm along x, y and z.
            affine: (4, 4) voxel index -> scanner position in mm (RAS).
            tta: average over the four in-plane mirrorings, at four times the computing.
            post: what makes the mask of the probability; by default `self.postprocessing`.
            orientation: the sides to which the axes grow, such as "LPS", where nothing else says.

        Returns:
            Mask (x, y, z), uint8: 1 where the probability is the threshold or more.

        Raises:
            InputError: a ValueError; no volume, no grey values, or no orientation known.
        """
        volume, affine = voxels_and_affine(volume, spacing, affine, orientation)
        post = post or self.postprocessing
        if post.smooth_mm:
            return self.predict_both(volume, affine, tta, post)[0]
        # Compared on the device: a whole volume of probabilities would be the largest array here.
        mask = self._predict(volume, affine, tta, post.threshold, self._stride(post), binary=True)
        return post.clean(mask, affine)

    def predict_both(
        self, volume: np.ndarray, affine: np.ndarray, tta: bool, post: PostProcessing
    ) -> tuple[np.ndarray, np.ndarray]:
        """The mask of `predict_volume`, and its probability (x, y, z): 0 in slices left out."""
        probability = self._predict(volume, affine, tta, post.threshold, self._stride(post))
        smoothed = smooth_across_slices(probability, affine, post.smooth_mm, self.plane)
        return post.mask(smoothed, affine), smoothed

    def predict_probability(
        self,
        volume: Given,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        tta: bool = False,
        smooth_mm: float | None = None,
        orientation: str = "",
    ) -> np.ndarray:
        """The probability of atrium (x, y, z), float32, to which the threshold is applied.

        Arguments as in predict_volume; smoothed by `smooth_mm`, or as `config.predict` says.
        """
        if smooth_mm is None:
            smooth_mm = self.postprocessing.smooth_mm
        volume, affine = voxels_and_affine(volume, spacing, affine, orientation)
        probability = self._predict(volume, affine, tta)
        return smooth_across_slices(probability, affine, smooth_mm, self.plane)

    def mask_of(
        self, probability: np.ndarray, affine: np.ndarray, post: PostProcessing
    ) -> np.ndarray:
        """The mask that `predict_volume` gives, of the probability (x, y, z) of all slices.

        Slices that it does not compute do not count here, either: a mask is the same whether or
        not its probability is wanted, too.
        """
        if self._stride(post) == 1:
            return post.mask(probability, affine)
        slices, geometry = to_slices(probability >= post.threshold, affine, self.plane)
        mask = np.zeros(slices.shape, np.uint8)

        def look(numbers: np.ndarray) -> np.ndarray:
            mask[numbers] = slices[numbers]
            return slices[numbers].any(axis=(1, 2))

        search(look, len(slices), self._stride(post), self._batch)
        return post.clean(from_slices(mask, geometry), affine)

    def _stride(self, post: PostProcessing) -> int:
        """Of `slice_search`; on accelerators, looking at all slices at once is faster."""
        if post.components != 1 or post.smooth_mm:
            return 1
        return self.config.predict.stride or (4 if jax.default_backend() == "cpu" else 1)

    @property
    def _batch(self) -> int:
        """Slices that are computed at a time."""
        return self.config.predict.batch_size * jax.local_device_count()

    def fusion_weights(self) -> np.ndarray:
        """How much each encoder block counts at each decoder scale: (S, L), rows sum to 1."""
        params = {"params": self.head_params}
        return np.asarray(self.model.head.apply(params, method="fusion_weights"))

    def check_plane(self, geometry: SliceGeometry, what: str) -> None:
        """Raises InputError for slices in a plane that a member was not trained on, unless told."""
        for member in (self, *self.partners):
            check_trained_plane(geometry, () if self.plane else member.planes, what)

    def _predict(
        self,
        volume: np.ndarray,
        affine: np.ndarray,
        tta: bool,
        threshold: float = 0.0,
        stride: int = 1,
        binary: bool = False,
    ) -> np.ndarray:
        """Volume -> probability (x, y, z) float32; `binary`: uint8, where it is the threshold."""
        slices, geometry = to_slices(volume, affine, self.plane)
        self.check_plane(geometry, "the volume")
        return from_slices(self._predict_slices(slices, tta, threshold, stride, binary), geometry)

    def _predict_slices(
        self, slices: np.ndarray, tta: bool, threshold: float, stride: int, binary: bool
    ) -> np.ndarray:
        """Slices (Z, H, W) -> the same as `_predict` for each; 0 where `search` leaves them out."""
        count, height, width = slices.shape
        padded = [-(-n // BUCKET) * BUCKET for n in (height, width)]
        batch = self._batch
        check_memory(slices.shape, padded, batch, slices.itemsize, not binary)
        members = [(m, resampling(m.config.data, slices, padded)) for m in (self, *self.partners)]
        result = np.zeros(slices.shape, np.uint8 if binary else np.float32)

        def start(numbers: np.ndarray) -> tuple[np.ndarray, jax.Array]:
            """The numbers of one batch, and what the devices are computing of these slices."""
            block = np.zeros((batch, *padded), slices.dtype)
            block[: len(numbers), :height, :width] = slices[numbers]
            block = split_batch(block)
            outputs = [
                slice_probability(m.model, m.encoder.params, m.head_params, block, how, tta)
                for m, how in members
            ]
            return numbers, average_probability(outputs, threshold if binary else None)

        def look(numbers: np.ndarray) -> list[bool]:
            batches = (numbers[i : i + batch] for i in range(0, len(numbers), batch))
            for some, output in _one_ahead(map(start, batches)):
                result[some] = np.asarray(output)[: len(some), :height, :width]
            return [bool((result[number] >= threshold).any()) for number in numbers]

        with refused_where_memory_ends(slices.shape):
            search(look, count, stride, batch)
        return result


def _one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, each when the next one has been started: devices have always work."""
    items = iter(items)
    before = next(items)
    for item in items:
        yield before
        before = item
    yield before


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
    """Equal for encoders of equal weights and rules in equal precision, adapted in equal shape."""
    weights = ("random", encoder.seed)
    if encoder.weights:
        card = read_card(encoder.weights, (encoder.variant, encoder.registers))
        weights = ("converted", card["encoder_sha256"])
    adapter = encoder.lora_rank, encoder.lora_blocks
    return encoder.variant, encoder.registers, encoder.dtype, *adapter, *weights


def restore_segmenter(
    config: ml_collections.ConfigDict, workdir: Path, encoder: FrozenEncoder
) -> Segmenter:
    """As `load_segmenter`, with the encoder already loaded."""
    model = build_model(config, encoder.spec)
    size = config.data.image_size
    step, params = restore_best(workdir, encoder.sha256, model.init_params, size)
    if model.adapter is not None:
        merged = jax.jit(model.adapted)(encoder.params, params)
        encoder = dataclasses.replace(encoder, params=merged)
        del params[LORA]
    told = read_planes(workdir), config.data.plane, read_source(workdir)
    return Segmenter(config, model, encoder, params, step, (), *told)
