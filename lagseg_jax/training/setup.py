"""Everything a training needs before its first step: model, data, state, checkpoints, logs."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
from clu import parameter_overview

from lagseg_jax.data.batches import TrainingBatches
from lagseg_jax.data.cases import Case
from lagseg_jax.data.split import split_sha256
from lagseg_jax.model.backend import run_once_compiler_options
from lagseg_jax.model.frozen_encoder import FrozenEncoder
from lagseg_jax.model.segmentation import Model, decoder_dtype
from lagseg_jax.runs.checkpoint import Checkpoints
from lagseg_jax.runs.train_state import TrainState
from lagseg_jax.runs.workdir import has_checkpoints
from lagseg_jax.runtime.devices import replicate
from lagseg_jax.runtime.processes import process
from lagseg_jax.training.init_from import initial_params
from lagseg_jax.training.load_slices import load_slices
from lagseg_jax.training.monitor import Meter, Watch
from lagseg_jax.training.optimizer import learning_rate
from lagseg_jax.training.plan import Plan, make_plan
from lagseg_jax.training.profile import Profiler
from lagseg_jax.training.programs import Programs
from lagseg_jax.training.run_log import RunLog
from lagseg_jax.training.step import TrainStep, init_state
from lagseg_jax.training.validation import Validator

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Training:
    """The parts of one start of a training; what changes from step to step is not in it."""

    plan: Plan
    encoder_params: dict
    train_step: TrainStep
    rate: Callable[[jax.Array], jax.Array]  # of the number of steps before
    batches: TrainingBatches
    validator: Validator
    checkpoints: Checkpoints
    run_log: RunLog
    watch: Watch
    profiler: Profiler


def set_up(
    config: ml_collections.ConfigDict,
    workdir: Path,
    split: dict[str, list[Case]],
    encoder: FrozenEncoder,
    programs: Programs,
    at_end: contextlib.ExitStack,
) -> tuple[Training, TrainState]:
    """The parts of a training, and the state from which it continues.

    Arguments and errors are those of `loop.train`; what has to be closed is left to `at_end`.
    """
    options, threads = config.train, config.data.read_threads
    model, optimizer = programs.model, programs.optimizer
    slices, validation_slices = load_slices(config, workdir, split, model, encoder)
    params = _init_params(config, workdir, model, encoder)
    plan = make_plan(options, len(slices))
    balanced = config.data.balance == "datasets"
    batches = TrainingBatches(slices, options.batch_size, config.seed, threads, process(), balanced)
    at_end.callback(batches.close)
    names = {part: [case.name for case in cases] for part, cases in split.items()}
    checkpoints = at_end.enter_context(
        Checkpoints(workdir, encoder.sha256, split_hash=split_sha256(names))
    )
    state = replicate(init_state(params, optimizer))
    state = _continue(state, batches, checkpoints)
    header = {"encoder": encoder.report(), "steps": plan.steps, "slices": len(slices)}
    rate = jax.jit(learning_rate(options, plan.steps))
    meter = Meter(rate, options.batch_size, int(state.step))
    training = Training(
        plan=plan,
        encoder_params=encoder.params,
        train_step=programs.train_step,
        rate=rate,
        batches=batches,
        validator=Validator(config, model, encoder, validation_slices),
        checkpoints=checkpoints,
        run_log=RunLog(workdir, header, plan, int(state.step), meter),
        watch=Watch([case.name for case in slices.cases], options.max_skipped),
        profiler=Profiler(workdir / "profile", tuple(options.profile_steps)),
    )
    at_end.callback(training.run_log.close)
    at_end.callback(training.profiler.close)
    log.info(
        "training: %d steps of %d slices, devices: %d (%s), steps per epoch: %d",
        *(plan.steps, options.batch_size, jax.device_count()),
        *(jax.devices()[0].device_kind, plan.per_epoch),
    )
    return training, state


def _init_params(
    config: ml_collections.ConfigDict, workdir: Path, model: Model, encoder: FrozenEncoder
) -> dict[str, dict]:
    """What is trained, at its start; says how much it is."""
    if config.train.init_from and not has_checkpoints(workdir):
        params = initial_params(config, workdir, model, encoder)
    else:
        draw = jax.jit(
            lambda key: model.init_params(key, config.data.image_size),
            compiler_options=run_once_compiler_options(),
        )
        params = draw(jax.random.key(config.seed))
    sizes = {name: parameter_overview.count_parameters(tree) for name, tree in params.items()}
    counts = ", ".join(f"{n:,} {name}" for name, n in sizes.items())
    log.info("trained parameters: %s; decoder in %s", counts, decoder_dtype(config.decoder.dtype))
    if encoder.adapted:
        log.info("the encoder is adapted: %s", encoder.adapted)
    return params


def _continue(state: TrainState, batches: TrainingBatches, checkpoints: Checkpoints) -> TrainState:
    """The state of the newest checkpoint, with the batches that follow; else the state itself."""
    if (found := checkpoints.restore_newest(state)) is None:
        return state
    state, position = found
    batches.restore(position)
    log.info("continuing from step %d (%s)", int(state.step), checkpoints.folder)
    return state
