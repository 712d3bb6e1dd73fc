"""The training loop: batches, steps on all devices, validations, checkpoints, logs."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
from clu import parameter_overview

from lagseg_jax.data.batches import TrainingBatches, split_over_devices
from lagseg_jax.data.layouts import Case
from lagseg_jax.model.frozen_encoder import FrozenEncoder
from lagseg_jax.model.segmentation import Model, build_model, decoder_dtype
from lagseg_jax.runs.checkpoint import Checkpoints, TrainState
from lagseg_jax.runtime.devices import replicate, settled
from lagseg_jax.runtime.errors import Interrupted
from lagseg_jax.runtime.processes import preempted, process
from lagseg_jax.runtime.signals import deferred
from lagseg_jax.training.metrics import TrainMetrics
from lagseg_jax.training.monitor import Meter, Watch
from lagseg_jax.training.optimizer import learning_rate, make_optimizer
from lagseg_jax.training.plan import Plan, make_plan, stopped_early
from lagseg_jax.training.profile import Profiler
from lagseg_jax.training.run_log import RunLog
from lagseg_jax.training.slices import load_slices
from lagseg_jax.training.step import StepOutcome, augmentation_of, init_state, make_train_step
from lagseg_jax.training.validation import Validator

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Training:
    """The parts of one start of a training; what changes from step to step is not in it."""

    plan: Plan
    patience: int  # validations without a better Dice before training stops; 0: never
    encoder_params: dict
    train_step: Callable[[TrainState, dict, dict], tuple[TrainState, TrainMetrics, StepOutcome]]
    batches: TrainingBatches
    validator: Validator
    checkpoints: Checkpoints
    run_log: RunLog
    watch: Watch
    profiler: Profiler
    asked: Callable[[], bool]  # whether this process was asked to stop


def train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    split: dict[str, list[Case]],
    encoder: FrozenEncoder,
) -> list[int]:
    """Trains head and adapter (if asked for), or continues from the workdir's newest checkpoint.

    Args:
        config: checked by `validate.check_config`.
        workdir: gets `checkpoints/`, `metrics.jsonl`, `tensorboard/`, and `profile/` if asked for.
        split: from `data.split.load_split`.
        encoder: the frozen encoder.

    Returns:
        The steps whose checkpoints could not be saved, for want of disk space, say.

    Raises:
        InputError: a volume cannot be used, or there are checkpoints and none of them is whole.
        TrainingError: `config.train.max_skipped` steps in a row had no finite loss and gradient.
        Interrupted: by a signal; the step it came in is saved.
    """
    options = config.train
    model = build_model(config, encoder.spec)
    slices, validation_slices = load_slices(config, workdir, split, model, encoder)
    plan = make_plan(options, len(slices))
    optimizer = make_optimizer(options, plan.steps)
    augmentation = augmentation_of(config.augment)
    with contextlib.ExitStack() as at_end, deferred() as asked:
        threads = config.data.read_threads
        batches = TrainingBatches(slices, options.batch_size, config.seed, threads, process())
        at_end.callback(batches.close)
        checkpoints = at_end.enter_context(Checkpoints(workdir, encoder.sha256))
        state = replicate(init_state(_init_params(config, model, encoder), optimizer))
        state = _continue(state, batches, checkpoints)
        start = int(state.step)
        unvalidated = plan.evaluates(start) and not checkpoints.is_validated(start)
        profiler = Profiler(workdir / "profile", tuple(options.profile_steps))
        at_end.callback(profiler.close)
        meter = Meter(learning_rate(options, plan.steps), options.batch_size, start)
        header = {"encoder": encoder.report(), "steps": plan.steps, "slices": len(slices)}
        run_log = RunLog(workdir, header, plan, start, meter, unvalidated)
        at_end.callback(run_log.close)
        training = Training(
            plan=plan,
            patience=options.patience,
            encoder_params=encoder.params,
            train_step=make_train_step(model, optimizer, options.loss, augmentation, config.seed),
            batches=batches,
            validator=Validator(config, model, encoder, validation_slices),
            checkpoints=checkpoints,
            run_log=run_log,
            watch=Watch([case.name for case in slices.cases], options.max_skipped),
            profiler=profiler,
            asked=asked,
        )
        if unvalidated:
            _judge_and_save(training, state, start, True, True)
        _loop(training, state, start)
    return checkpoints.failed


def _loop(training: Training, state: TrainState, start: int) -> None:
    """All steps after `start`."""
    plan, evaluate, save = training.plan, False, False
    for step in range(start + 1, plan.steps + 1):
        if stopped_early(training.checkpoints, step - 1, plan.evaluate_every, training.patience):
            break
        with training.profiler.step(step):
            batch = next(training.batches)
            shares = split_over_devices(batch, jax.local_device_count())
            state, metrics, outcome = settled(
                training.train_step(state, training.encoder_params, shares)
            )
        training.profiler.end(step, outcome)
        training.watch.add(step, batch["case"], outcome)
        training.run_log.add(step, metrics, outcome)
        # What is due waits for a step that changed something: a state that gives no finite loss is
        # nothing to continue from.
        evaluate, save = evaluate or plan.evaluates(step), save or plan.saves(step)
        if _judge_and_save(training, state, step, evaluate, save):
            evaluate = save = False
    training.watch.settle()


def _judge_and_save(
    training: Training, state: TrainState, step: int, evaluate: bool, save: bool
) -> bool:
    """Ends a step: validation and checkpoint, if they are due, and the row of the log.

    Returns:
        Whether what was due is done: not while the steps are skipped.

    Raises:
        Interrupted: a process was asked to stop; the step is saved.
    """
    sound = training.watch.settle() if evaluate or save else True
    scores = training.validator.run(state, training.asked) if evaluate and sound else None
    training.run_log.end(step, scores)
    stop = preempted(step, training.asked())
    if (save or scores is not None or stop) and training.watch.settle():
        dice = None if scores is None else scores["validation_dice"]
        training.checkpoints.save(state, training.batches.state(), dice)
    if stop:
        raise Interrupted(f"stopped by a signal after step {step}")
    return sound


def _init_params(
    config: ml_collections.ConfigDict, model: Model, encoder: FrozenEncoder
) -> dict[str, Any]:
    """What is trained, at its start; says how much it is."""
    params = model.init_params(jax.random.key(config.seed), config.data.image_size)
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
