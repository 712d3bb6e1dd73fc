"""The slices that a training reads, decoded and, if asked for, encoded before it begins."""

from collections.abc import Sequence
from pathlib import Path

import ml_collections

from lagseg_jax.data.batches import SliceSource
from lagseg_jax.data.cases import Case
from lagseg_jax.data.prepare import (
    Preparation,
    PreparedCase,
    cache_folder,
    prepare_cases,
    voxel_hashes,
)
from lagseg_jax.imaging.appearance import appearance
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.model.frozen_encoder import FrozenEncoder
from lagseg_jax.model.segmentation import Model
from lagseg_jax.runs.planes import write_planes
from lagseg_jax.runs.training_range import FIELD, RANGE, write_training_range
from lagseg_jax.runs.voxel_hashes import write_voxel_hashes
from lagseg_jax.runs.workdir import has_checkpoints
from lagseg_jax.runtime.processes import once
from lagseg_jax.runtime.trace import stage
from lagseg_jax.training.token_cache import cached_tokens, feature_folder


@stage("preparing volumes")
def load_slices(
    config: ml_collections.ConfigDict,
    workdir: Path,
    split: dict[str, list[Case]],
    model: Model,
    encoder: FrozenEncoder,
) -> tuple[SliceSource, SliceSource]:
    """The slices of the training and the validation cases, decoded into the cache if need be.

    With `config.train.cache_features`, their tokens, too, encoded if need be. The test cases are
    checked, so that a bad one is met before the training, not after it. The workdir keeps the
    planes of the training slices, what the atrium in them looks like, and what tells copies of the
    images.
    """
    data = config.data
    preparation = Preparation(
        data.image_size,
        tuple(data.clip_percentiles),
        data.label_value,
        data.label_threshold,
        tuple(data.window),
        Reading.of(data),
    )
    # In one call: no part can evict another from the cache.
    cases, folder = [*split["train"], *split["validation"]], cache_folder(data.cache_dir)
    prepared = prepare_cases(cases, preparation, folder, data.cache_gb, only_checked=split["test"])
    count = len(split["train"])
    once(write_planes, workdir, [case.plane for case in prepared[:count]])
    hashes = voxel_hashes(cases, split["test"], preparation, folder)
    once(write_voxel_hashes, workdir, hashes)
    once(_record_range, workdir, prepared[:count])
    if not config.train.cache_features:
        return SliceSource(prepared[:count]), SliceSource(prepared[count:])
    tokens = cached_tokens(
        prepared,
        model,
        encoder,
        config.predict.batch_size,
        feature_folder(data.cache_dir),
        config.train.feature_cache_gb,
    )
    return (
        SliceSource(prepared[:count], tokens[:count]),
        SliceSource(prepared[count:], tokens[count:]),
    )


def _record_range(workdir: Path, cases: Sequence[PreparedCase]) -> None:
    """Once for a run, which has the same training cases when it is continued."""
    if not ((workdir / RANGE).exists() and has_checkpoints(workdir)):
        found = (
            {"volume_ml": c.atrium_ml, **appearance(c.images, c.masks), FIELD: c.field_mm}
            for c in cases
        )
        write_training_range(workdir, found)
