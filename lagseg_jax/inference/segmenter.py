"""The trained model of one or several runs as a function from a volume to its atrium mask.

Everything from the slice's grey values to the probability on the slice's own grid is one compiled
function: normalising, padding and resizing (two matrix products), encoder, fusion, decoder, and
resizing back. Several models are an ensemble: their probabilities are averaged, batch by batch.
"""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.grey_values import grey_range
from lagseg_jax.imaging.masks import check_grey
from lagseg_jax.imaging.remarks import remarks
from lagseg_jax.imaging.slices import (
    SliceGeometry,
    check_trained_plane,
    field_mm,
    from_slices,
    to_slices,
)
from lagseg_jax.inference.batches_at_once import computed
from lagseg_jax.inference.estimator import Estimator
from lagseg_jax.inference.given import Given, as_volume
from lagseg_jax.inference.memory import check_memory, refused_where_memory_ends
from lagseg_jax.inference.postprocess import PostProcessing, smooth_across_slices
from lagseg_jax.inference.slice_probability import (
    Cut,
    average_probability,
    compile_ahead,
    resampling,
    slice_probability,
)
from lagseg_jax.inference.slice_search import largest_is_seen, search
from lagseg_jax.model.frozen_encoder import FrozenEncoder
from lagseg_jax.model.segmentation import Model
from lagseg_jax.runs.training_range import unlike_field
from lagseg_jax.runtime.devices import split_batch

log = logging.getLogger(__name__)

BUCKET = 64  # slice sizes are padded to multiples of this: few sizes, few compilations


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
        planes: of the slices it was trained on, which refuse others; none: not known, or any.
        plane: that volumes are cut in; "": as `slices.through_plane` says.
        trained: numbers of its training cases (`training_range`); none: not known.
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
    trained: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
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
        """Segments the left atrium, and logs a warning for each of `remarks`.

        Slices that cannot matter are left out, as `config.predict.stride` says (`slice_search`).

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
            InputError: a ValueError; no volume, no grey values, a mask, or no orientation known.
        """
        given = self._given(volume, spacing, affine, orientation)
        return self.segment(given, tta, post or self.postprocessing)

    def segment(self, volume: Volume, tta: bool, post: PostProcessing) -> np.ndarray:
        """The mask that `predict_volume` gives, without a word."""
        volume = as_volume(volume)
        computed = self.compute(self.cut(volume.array, volume.affine), tta, post)
        return self.finish(computed, volume.affine, post)[0]

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
        given = self._given(volume, spacing, affine, orientation)
        probability = self.compute(self.cut(given.array, given.affine), tta)
        return smooth_across_slices(probability, given.affine, smooth_mm, self.plane)

    def _given(self, *given: Any) -> Volume:
        """What the arguments of `as_volume` are; says what is unusual about it."""
        volume = as_volume(*given)
        check_grey(volume)
        for remark in self.remarks(volume):
            log.warning("%s: %s", volume.path, remark)
        return volume

    def cut(self, volume: np.ndarray, affine: np.ndarray, what: str = "the volume") -> Cut:
        """What the devices need of a volume (x, y, z); in any thread.

        Raises:
            InputError: as `check_plane`; no voxel within the window.
        """
        slices, geometry = to_slices(volume, affine, self.plane)
        self.check_plane(geometry, what)
        of = [member.config.data for member in self._members]
        rules = [(tuple(data.clip_percentiles), tuple(data.window)) for data in of]
        found = {rule: grey_range(slices, *rule) for rule in set(rules)}
        return Cut(slices, geometry, [found[rule] for rule in rules])

    def compute(
        self, cut: Cut, tta: bool, post: PostProcessing | None = None, probable: bool = False
    ) -> np.ndarray:
        """(x, y, z): the probability, float32; with `post`, where it reaches the threshold, uint8.

        Where `post` smooths, or if `probable`, it is the probability, too, which is 0 in slices
        that are left out: `finish` makes masks of both.
        """
        if post is None:
            return from_slices(self._predict_slices(cut, tta, 0.0, 1, False), cut.geometry)
        # Compared on the device: a whole volume of probabilities would be the largest array here.
        how = post.threshold, self._stride(post), not (post.smooth_mm or probable)
        return from_slices(self._predict_slices(cut, tta, *how), cut.geometry)

    def finish(
        self, computed: np.ndarray, affine: np.ndarray, post: PostProcessing
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The mask (x, y, z) of what `compute` gave, and the probability if it gave that."""
        if computed.dtype == np.uint8:
            return post.clean(computed, affine), None
        probability = smooth_across_slices(computed, affine, post.smooth_mm, self.plane)
        return self.mask_of(probability, affine, post), probability

    def mask_of(
        self, probability: np.ndarray, affine: np.ndarray, post: PostProcessing
    ) -> np.ndarray:
        """The mask that `predict_volume` gives, of the probability (x, y, z) of all slices.

        Slices that it does not compute do not count here, either.
        """
        if self._stride(post) == 1:
            return post.mask(probability, affine)
        slices, geometry = to_slices(probability >= post.threshold, affine, self.plane)
        mask = np.zeros(slices.shape, np.uint8)

        def look(numbers: np.ndarray) -> np.ndarray:
            mask[numbers] = slices[numbers]
            return slices[numbers].any(axis=(1, 2))

        stride = self._stride(post)
        enough = functools.partial(largest_is_seen, mask, geometry.spacing, stride)
        search(look, len(slices), stride, self._batch, enough)
        return post.clean(from_slices(mask, geometry), affine)

    def _stride(self, post: PostProcessing) -> int:
        """Of `slice_search`; on accelerators, looking at all slices at once is faster."""
        if post.components != 1 or post.smooth_mm:
            return 1
        return self.config.predict.stride or (4 if jax.default_backend() == "cpu" else 1)

    @property
    def _at_once(self) -> int:
        """Batches that are computed at the same time.

        One fills an accelerator. Of a CPU it leaves cores idle between its operations: two of half
        the size took 0.65 of the time on two cores (docs/log/2026-11-28-start.md).
        """
        return 2 if jax.default_backend() == "cpu" and self.config.predict.batch_size > 1 else 1

    @property
    def _batch(self) -> int:
        """Slices of a batch."""
        return self.config.predict.batch_size // self._at_once * jax.local_device_count()

    def fusion_weights(self) -> np.ndarray:
        """How much each encoder block counts at each decoder scale: (S, L), rows sum to 1."""
        params = {"params": self.head_params}
        return np.asarray(self.model.head.apply(params, method="fusion_weights"))

    def check_plane(self, geometry: SliceGeometry, what: str) -> None:
        """Raises InputError for slices in a plane that a member was not trained on."""
        for member in self._members:
            check_trained_plane(geometry, member.planes, what)

    def remarks(self, volume: Volume) -> list[str]:
        """What is unusual about a volume, each in a sentence; only grey values do not count.

        Its orientation was told, its slices are tilted or sheared, their pixels are not square, or
        their field of view is unlike those that a member was trained on.
        """
        size = field_mm(*to_slices(volume.array, volume.affine, self.plane))
        fields = [unlike_field(size, member.trained) for member in self._members]
        return remarks(volume, self.plane) + [one for one in fields if one][:1]

    def in_any_plane(self, plane: str = "") -> "Segmenter":
        """The same for volumes in planes that no member was trained on, or cut in this one."""
        members = [dataclasses.replace(member, planes=()) for member in self._members]
        partners = tuple(members[1:])
        return dataclasses.replace(members[0], plane=plane or self.plane, partners=partners)

    @property
    def _members(self) -> tuple["Segmenter", ...]:
        return self, *self.partners

    def _predict_slices(
        self, cut: Cut, tta: bool, threshold: float, stride: int, binary: bool
    ) -> np.ndarray:
        """The same as `compute` for each of the slices; 0 where `search` leaves them out."""
        slices = cut.slices
        count, height, width = slices.shape
        padded = [-(-n // BUCKET) * BUCKET for n in (height, width)]
        batch = self._batch
        check_memory(slices.shape, padded, batch * self._at_once, slices.itemsize, not binary)
        members = [
            (m, resampling(m.config.data.image_size, slices.shape[1:], padded, grey))
            for m, grey in zip(self._members, cut.grey)
        ]
        lowest = 1 if binary else threshold
        result = np.zeros(slices.shape, np.uint8 if binary else np.float32)
        like = jax.ShapeDtypeStruct((batch, *padded), slices.dtype)

        def start(numbers: np.ndarray) -> jax.Array:
            """What the devices are computing of these slices."""
            block = np.zeros((batch, *padded), slices.dtype)
            block[: len(numbers), :height, :width] = slices[numbers]
            block = split_batch(block)
            outputs = [
                slice_probability(m.model, m.encoder.params, m.head_params, block, how, tta)
                for m, how in members
            ]
            return average_probability(outputs, threshold if binary else None)

        def look(numbers: np.ndarray) -> list[bool]:
            batches = [numbers[i : i + batch] for i in range(0, len(numbers), batch)]
            for some, output in zip(batches, computed(start, batches, self._at_once)):
                result[some] = output[: len(some), :height, :width]
            return [bool((result[number] >= lowest).any()) for number in numbers]

        def enough() -> bool:
            return largest_is_seen(result >= lowest, cut.geometry.spacing, stride)

        with refused_where_memory_ends(slices.shape):
            for m, how in members:
                compile_ahead(m.model, m.encoder.params, m.head_params, like, how, tta)
            search(look, count, stride, batch, enough)
        return result
