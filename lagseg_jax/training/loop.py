"""config -> trained model in the workdir: data, pmapped steps, validation, checkpoints, logs."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
import numpy as np
from clu import parameter_overview

from lagseg_jax.data.batches import (
    SliceSource,
    TrainingBatches,
    evaluation_batches,
    split_over_devices,
)
from lagseg_jax.data.layouts import Case
from lagseg_jax.data.prepare import Preparation, cache_folder, prepare_cases
from lagseg_jax.model.frozen_encoder import FrozenEncoder
from lagseg_jax.model.segmentation import Model, build_model, decoder_dtype
from lagseg_jax.runs.checkpoint import Checkpoints, TrainState
from lagseg_jax.runs.metrics_log import MetricsWriter
from lagseg_jax.runtime.console import Progress, still
from lagseg_jax.runtime.devices import replicate
from lagseg_jax.runtime.errors import Interrupted
from lagseg_jax.runtime.signals import deferred
from lagseg_jax.training.monitor import Meter, Watch
from lagseg_jax.training.optimizer import learning_rate, make_optimizer
from lagseg_jax.training.step import (
    augmentation_of,
    init_state,
    make_train_step,
    make_validation_step,
)
from lagseg_jax.training.token_cache import cached_tokens, feature_folder

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """When what happens, in optimiser steps counted from 1."""

    steps: int
    per_epoch: int
    evaluate_every: int
    checkpoint_every: int
    log_every: int

    def due(self, step: int, every: int) -> bool:
        """Whether something that happens every so many steps happens after this one."""
        return step % every == 0 or step == self.steps


def make_plan(options: ml_collections.ConfigDict, slices: int) -> Plan:
    """`config.train` for a training set of so many slices."""
    per_epoch = max(1, slices // options.batch_size)
    evaluate_every = options.evaluate_every or per_epoch
    return Plan(
        steps=options.steps or max(1, round(options.epochs * per_epoch)),
        per_epoch=per_epoch,
        evaluate_every=evaluate_every,
        checkpoint_every=options.checkpoint_every or evaluate_every,
        log_every=options.log_every,
    )


def train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    split: dict[str, list[Case]],
    encoder: FrozenEncoder,
) -> list[int]:
    """Trains head and adapter (if asked for), or continues from the workdir's newest checkpoint.

    Args:
        config: checked by `config_check.check_config`.
        workdir: gets `checkpoints/`, `metrics.jsonl` and `tensorboard/`.
        split: from `experiment.load_split`.
        encoder: the frozen encoder.

    Returns:
        The steps whose checkpoints could not be saved, for want of disk space, say.

    Raises:
        InputError: a volume cannot be used, or there are checkpoints and none of them is whole.
        TrainingError: `config.train.max_skipped` steps in a row had no finite loss and gradient.
        Interrupted: by a signal; the step it came in is saved.
    """
    options, data = config.train, config.data
    model = build_model(config, encoder.spec)
    training, validation = load_slices(config, split, model, encoder)
    plan = make_plan(options, len(training))

    optimizer = make_optimizer(options, plan.steps)
    params = model.init_params(jax.random.key(config.seed), data.image_size)
    state = replicate(init_state(params, optimizer))
    sizes = {name: parameter_overview.count_parameters(tree) for name, tree in params.items()}
    counts = ", ".join(f"{n:,} {name}" for name, n in sizes.items())
    log.info("trained parameters: %s; decoder in %s", counts, decoder_dtype(config.decoder.dtype))
    if encoder.adapted:
        log.info("the encoder is adapted: %s", encoder.adapted)

    augmentation = augmentation_of(config.augment)
    train_step = make_train_step(model, optimizer, options.loss, augmentation, config.seed)
    validate = make_validation(config, model, encoder, validation)

    process = (jax.process_index(), jax.process_count())
    batches = TrainingBatches(training, options.batch_size, config.seed, data.read_threads, process)
    checkpoints = Checkpoints(workdir, encoder.sha256)
    unfinished = None  # row of a step whose validation a signal cut short
    if (found := checkpoints.restore_newest(state)) is not None:
        state, position = found
        batches.restore(position)
        unfinished = position.get("row")
        log.info("continuing from step %d (%s)", int(state.step), checkpoints.folder)
    start = int(state.step)
    header = {"encoder": encoder.report(), "steps": plan.steps, "slices": len(training)}
    writer = None  # the first process writes for all
    if process[0] == 0:
        writer = MetricsWriter(workdir, header, start - (unfinished is not None))
    meter = Meter(learning_rate(options, plan.steps), options.batch_size, start)
    watch = Watch([case.name for case in training.cases], options.max_skipped)
    log.info(
        "training: %d steps of %d slices on %d devices (%s), %d steps per epoch",
        *(plan.steps, options.batch_size, jax.device_count()),
        *(jax.devices()[0].device_kind, plan.per_epoch),
    )
    progress, note = Progress("training", plan.steps, start), {}

    def judge(step: int, row: dict) -> float | None:
        """Validates and completes the row; None when a signal came meanwhile."""
        scores = validate(state, lambda: alone and asked())
        if scores is None:
            return None
        if writer is not None:
            writer.write(step, row | scores)
        note["validation dice"] = f"{scores['validation_dice']:.4f}"
        meter.restart_clock(step)
        return scores["validation_dice"]

    # Several processes agree on the step, through the devices; one knows at once.
    alone = jax.process_count() == 1
    with deferred() as asked:
        try:
            if unfinished is not None:
                dice = judge(start, unfinished)
                if dice is None:
                    raise _interrupted(start)
                checkpoints.save(state, batches.state(), dice)
            for step in range(start + 1, plan.steps + 1):
                if stopped_early(checkpoints, step - 1, plan.evaluate_every, options.patience):
                    break
                with still(f"at training step {step}"):
                    batch = next(batches)
                    batch["stop"] = np.full(len(batch["slice"]), asked())
                    state, metrics, outcome = train_step(
                        state, encoder.params, split_over_devices(batch, jax.local_device_count())
                    )
                    _settled(outcome)
                    meter.add(metrics, outcome)
                    stop = watch.add(step, batch["case"], outcome)
                    row, dice, position = {}, None, batches.state()
                    if plan.due(step, plan.log_every):
                        row = meter.read(step)
                        note["loss"] = f"{row['loss']:.4f}"
                    if plan.due(step, plan.evaluate_every):
                        dice = judge(step, row)
                        if dice is None:
                            position["row"] = row
                    elif row and writer is not None:
                        writer.write(step, row)
                    stop = asked() if alone else stop
                    if dice is not None or plan.due(step, plan.checkpoint_every) or stop:
                        checkpoints.save(state, position, dice)
                    progress.advance(note)
                    if stop:
                        raise _interrupted(step)
            watch.settle()
        finally:
            progress.close()
            if writer is not None:
                writer.close()
            batches.close()
            checkpoints.close()
    return checkpoints.failed


def _interrupted(step: int) -> Interrupted:
    return Interrupted(f"stopped by a signal after step {step}; the same command continues")


def load_slices(
    config: ml_collections.ConfigDict,
    split: dict[str, list[Case]],
    model: Model,
    encoder: FrozenEncoder,
) -> tuple[SliceSource, SliceSource]:
    """The slices of the training and the validation cases, decoded into the cache if need be.

    With `config.train.cache_features`, their tokens, too, encoded if need be. The test cases are
    checked, so that a bad one is met before the training, not after it.
    """
    data = config.data
    preparation = Preparation(
        data.image_size,
        tuple(data.clip_percentiles),
        data.label_value,
        max_bytes=int(data.max_gb * 1e9),
        allow=tuple(data.allow),
    )
    # In one call: no part can evict another from the cache.
    prepared = prepare_cases(
        [*split["train"], *split["validation"]],
        preparation,
        cache_folder(data.cache_dir),
        data.cache_gb,
        only_checked=split["test"],
    )
    count = len(split["train"])
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


def make_validation(
    config: ml_collections.ConfigDict, model: Model, encoder: FrozenEncoder, slices: SliceSource
) -> Callable[[TrainState, Callable[[], bool]], dict[str, float] | None]:
    """The function that judges a state on all validation slices, on all devices.

    It takes the state, and a function that says whether to stop; then it returns None.
    """
    validation_step = make_validation_step(model, config.train.loss, len(slices.cases))
    process = (jax.process_index(), jax.process_count())

    def validate(state: TrainState, stop: Callable[[], bool]) -> dict[str, float] | None:
        total = None
        for batch in evaluation_batches(slices, config.train.batch_size, process):
            batch = split_over_devices(batch, jax.local_device_count())
            metrics = _settled(validation_step(state.params, encoder.params, batch))
            total = metrics if total is None else total.merge(metrics)
            if stop():
                return None
        assert total is not None  # no split is without validation cases
        return {f"validation_{name}": float(value) for name, value in total.compute().items()}

    return validate


def _settled(metrics):
    """On simulated CPU devices, waits: collectives of steps that overlap deadlock there."""
    return jax.block_until_ready(metrics) if jax.default_backend() == "cpu" else metrics


def stopped_early(checkpoints: Checkpoints, step: int, every: int, patience: int) -> bool:
    """Whether the last `patience` validations, up to this step, were no better than an older one.

    Asked of the checkpoints, so that a run that is continued stops where it would have stopped.
    """
    if not patience or step % every:
        return False
    best = checkpoints.best()
    if best is None or (step - best[0]) // every < patience:
        return False
    log.info(
        "stopping early at step %d: validation Dice %.4f of step %d was not beaten in %d "
        "validations",
        *(step, best[1], best[0], patience),
    )
    return True
