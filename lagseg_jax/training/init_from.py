"""Starts a training from the fusion, decoder and adapter that another run has trained."""

import logging
from pathlib import Path

import jax
import ml_collections

from lagseg_jax.config.validate import flat_fields
from lagseg_jax.data.seen_cases import check_unseen, seen_images
from lagseg_jax.data.split import read_content
from lagseg_jax.model.frozen_encoder import FrozenEncoder
from lagseg_jax.model.lora import LORA
from lagseg_jax.model.segmentation import Model
from lagseg_jax.model.trained_shapes import trained_structs
from lagseg_jax.runs.best_params import restore_best
from lagseg_jax.runs.checkpoint import Checkpoints
from lagseg_jax.runs.init_source import write_source
from lagseg_jax.runs.voxel_hashes import read_voxel_hashes
from lagseg_jax.runs.workdir import CONFIG, read_config
from lagseg_jax.runtime.devices import tree_hash
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import file_sha256
from lagseg_jax.runtime.processes import once

log = logging.getLogger(__name__)

# What the shapes of the trained parameters, or what they mean, depend on. The size of an image is
# not among them: fusion and decoder work at any.
ADAPTER = ("encoder.lora_rank", "encoder.lora_blocks")
SHAPES = (
    *("encoder.variant", "encoder.registers", *ADAPTER),
    *("fusion.blocks", "fusion.learned"),
    *("decoder.scales", "decoder.widths", "decoder.image_injection", "decoder.image_path"),
)


def check_init_from(config: ml_collections.ConfigDict, encoder: FrozenEncoder) -> None:
    """Refuses a run in `config.train.init_from` whose parameters do not fit.

    A run with an adapter may begin with one of the frozen encoder, whose adapter does nothing yet.

    Raises:
        InputError: no run, no checkpoint, another encoder, or parameters of other shapes.
    """
    source = Path(config.train.init_from).expanduser()
    try:
        before = flat_fields(read_config(source))
    except InputError as error:
        raise InputError(f"config.train.init_from: {error}") from None
    now = flat_fields(config)
    new_adapter = not before["encoder.lora_rank"]
    for field in SHAPES:
        if before[field] != now[field] and not (new_adapter and field in ADAPTER):
            raise InputError(
                f"config.{field} is {now[field]!r}, but {source}, which config.train.init_from "
                f"names, was trained with {before[field]!r}, expected the same value, so that its "
                "parameters fit"
            )
    try:
        with Checkpoints(source, encoder.sha256, read_only=True) as checkpoints:
            checkpoints.check_encoder()
    except InputError as error:
        raise InputError(f"config.train.init_from: {error}") from None


def initial_params(
    config: ml_collections.ConfigDict, workdir: Path, model: Model, encoder: FrozenEncoder
) -> dict:
    """The parameters of the best checkpoint of `config.train.init_from`; workdir gets its record.

    An adapter that the source has not is new.

    Raises:
        InputError: see `check_init_from`; or that run has learnt from a test case of this one.
    """
    check_init_from(config, encoder)
    source = Path(config.train.init_from).expanduser()
    seen, record = seen_images(source), read_content(workdir / "splits.json")
    assert isinstance(record, dict)  # `load_split` wrote or checked it
    voxels = read_voxel_hashes(workdir)
    test = {n: (record["sha256"][n]["image"], voxels.get(n, "")) for n in record["test"]}
    names = check_unseen(seen, test, source, config.data.allow, "config.data.allow=('seen_case',)")
    if names:
        log.warning("%d test cases are among those that %s has seen", len(names), source)
    new = model.adapter is not None and not read_config(source).encoder.lora_rank
    step, params = restore_best(source, encoder.sha256, trained_structs(model, adapter=not new))
    about = {
        "path": str(source.absolute()),
        "checkpoint_step": step,
        "sha256": tree_hash(params),
        "config_sha256": file_sha256(source / CONFIG),
    }
    once(write_source, workdir, about, seen)
    log.info("beginning with the parameters of step %d of %s", step, source)
    if new:
        log.info("that run has no adapter: this one's begins with no effect")
        params = {**params, LORA: model.init_adapter(jax.random.key(config.seed))}
    return params
