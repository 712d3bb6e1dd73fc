"""Loads the best checkpoint of a run, or of several as an ensemble, ready for volumes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections

from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.model.frozen_encoder import FrozenEncoder, load_frozen_encoder
from lagseg_jax.model.lora import LORA
from lagseg_jax.model.segmentation import build_model
from lagseg_jax.model.trained_shapes import trained_structs
from lagseg_jax.model.weights import read_card
from lagseg_jax.runs.best_params import restore_best
from lagseg_jax.runs.init_source import read_source
from lagseg_jax.runs.planes import read_planes
from lagseg_jax.runs.training_range import read_training_range
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.devices import use_compilation_cache
from lagseg_jax.runtime.errors import InputError


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
    step, params = restore_best(workdir, encoder.sha256, trained_structs(model))
    if model.adapter is not None:
        merged = jax.jit(model.adapted)(encoder.params, params)
        encoder = dataclasses.replace(encoder, params=merged)
        del params[LORA]
    trained = {"planes": read_planes(workdir), "plane": config.data.plane}
    trained |= {"trained": read_training_range(workdir), "source": read_source(workdir)}
    return Segmenter(config, model, encoder, params, step, **trained)
