"""config -> trained head in the workdir: data, pmapped steps, validation, checkpoints, logs."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections
from clu import parameter_overview

from lagseg_jax.batches import (
    SliceSource,
    TrainingBatches,
    check_batch_size,
    evaluation_batches,
    split_over_devices,
)
from lagseg_jax.cache import Preparation, cache_folder, check_cases, prepare_cases
from lagseg_jax.checkpoint import Checkpoints
from lagseg_jax.dataset import Case
from lagseg_jax.devices import replicate
from lagseg_jax.errors import TrainingError
from lagseg_jax.frozen import FrozenEncoder
from lagseg_jax.logs import MetricsWriter, Progress
from lagseg_jax.model import Model, build_model
from lagseg_jax.train_metrics import TrainMetrics
from lagseg_jax.train_step import (
    AXIS,
    TrainState,
    augmentation_of,
    init_state,
    learning_rate,
    make_optimizer,
    make_train_step,
    make_validation_step,
)

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
        steps=max(1, round(options.epochs * per_epoch)),
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
) -> None:
    """Trains the head, or continues from the newest checkpoint in the workdir.

    Args:
        config: checked by `experiment.check_config`.
        workdir: gets `checkpoints/`, `metrics.jsonl` and `tensorboard/`.
        split: from `experiment.load_split`.
        encoder: the frozen encoder.

    Raises:
        InputError: a volume cannot be used, or the batch does not fit the devices.
        TrainingError: the loss is not finite any more.
    """
    options, data = config.train, config.data
    check_batch_size("config.train.batch_size", options.batch_size, jax.device_count())
    training, validation = (load_slices(config, split[part]) for part in ("train", "validation"))
    check_cases(split["test"], data.label_value or None)
    plan = make_plan(options, len(training))

    model = build_model(config, encoder.spec)
    optimizer = make_optimizer(options, plan.steps)
    params = model.init_head(jax.random.key(config.seed), data.image_size)
    state = replicate(init_state(params, optimizer))
    sizes = {name: parameter_overview.count_parameters(tree) for name, tree in params.items()}
    log.info("trained parameters: %s", ", ".join(f"{n:,} {name}" for name, n in sizes.items()))

    augmentation = augmentation_of(config.augment)
    step_fn = make_train_step(model, optimizer, options.loss, augmentation, config.seed)
    train_step = jax.pmap(step_fn, AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=0)
    validate = make_validation(config, model, encoder, validation)

    process = (jax.process_index(), jax.process_count())
    batches = TrainingBatches(training, options.batch_size, config.seed, data.read_threads, process)
    checkpoints = Checkpoints(workdir, encoder.sha256)
    if checkpoints.newest() is not None:
        state, position = checkpoints.restore(checkpoints.newest(), state)
        batches.restore(position)
        log.info("continuing from step %d (%s)", int(state.step), checkpoints.folder)
    start = int(state.step)
    header = {"encoder": encoder.report(), "steps": plan.steps, "slices": len(training)}
    writer = MetricsWriter(workdir, header, start)
    meter = Meter(learning_rate(options, plan.steps), options.batch_size, start)
    log.info(
        "training: %d steps of %d slices on %d devices (%s), %d steps per epoch",
        *(plan.steps, options.batch_size, jax.device_count()),
        *(jax.devices()[0].device_kind, plan.per_epoch),
    )
    progress, note = Progress("training", plan.steps, start), {}
    try:
        for step in range(start + 1, plan.steps + 1):
            if stopped_early(checkpoints, step - 1, plan.evaluate_every, options.patience):
                break
            batch = split_over_devices(next(batches), jax.local_device_count())
            state, metrics = train_step(state, encoder.params, batch)
            meter.add(metrics)
            row, dice = {}, None
            if plan.due(step, plan.log_every):
                row |= meter.read(step)
                note["loss"] = f"{row['loss']:.4f}"
            if plan.due(step, plan.evaluate_every):
                row |= validate(state)
                dice = row["validation_dice"]
                note["validation dice"] = f"{dice:.4f}"
                meter.restart_clock(step)
            if row:
                writer.write(step, row)
            if dice is not None or plan.due(step, plan.checkpoint_every):
                checkpoints.save(state, batches.state(), dice)
            progress.advance(note)
    finally:
        progress.close()
        writer.close()
        batches.close()
        checkpoints.close()


def load_slices(config: ml_collections.ConfigDict, cases: list[Case]) -> SliceSource:
    """All slices of the cases, decoded into the cache if they are not there yet."""
    data = config.data
    preparation = Preparation(data.image_size, tuple(data.clip_percentiles), data.label_value)
    folder = cache_folder(data.cache_dir)
    return SliceSource(prepare_cases(cases, preparation, folder, data.cache_gb))


def make_validation(
    config: ml_collections.ConfigDict, model: Model, encoder: FrozenEncoder, slices: SliceSource
) -> Callable[[TrainState], dict[str, float]]:
    """The function that judges a state on all validation slices, on all devices."""
    step_fn = make_validation_step(model, config.train.loss, len(slices.cases))
    validation_step = jax.pmap(step_fn, AXIS, in_axes=(None, None, 0), out_axes=None)
    process = (jax.process_index(), jax.process_count())

    def validate(state: TrainState) -> dict[str, float]:
        total = None
        for batch in evaluation_batches(slices, config.train.batch_size, process):
            batch = split_over_devices(batch, jax.local_device_count())
            metrics = _settled(validation_step(state.params, encoder.params, batch))
            total = metrics if total is None else total.merge(metrics)
        return {f"validation_{name}": float(value) for name, value in total.compute().items()}

    return validate


class Meter:
    """Metrics and speed since the last log line.

    Args:
        schedule: learning rate as a function of the step.
        batch_size: slices per step.
        step: training starts after this one.
    """

    def __init__(self, schedule: Callable[[int], jax.Array], batch_size: int, step: int):
        self._schedule, self._batch_size = schedule, batch_size
        self._total: TrainMetrics | None = None
        self.restart_clock(step)

    def restart_clock(self, step: int) -> None:
        """Leaves out what is no training (validation, say) from the speed."""
        self._step, self._time = step, time.monotonic()

    def add(self, metrics: TrainMetrics) -> None:
        """Adds those of one step."""
        metrics = _settled(metrics)
        self._total = metrics if self._total is None else self._total.merge(metrics)

    def read(self, step: int) -> dict[str, float]:
        """The row for this step; starts anew.

        Raises:
            TrainingError: the loss is not finite.
        """
        row = {name: float(value) for name, value in self._total.compute().items()}
        if not math.isfinite(row["loss"]):
            raise TrainingError(
                f"the loss is {row['loss']} at step {step}: training stops, and the checkpoints "
                "of earlier steps stay as they are"
            )
        seconds = time.monotonic() - self._time
        row["learning_rate"] = float(self._schedule(step - 1))
        row["slices_per_second"] = (step - self._step) * self._batch_size / seconds
        self._total = None
        self.restart_clock(step)
        return row


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
    stop = best is not None and (step - best[0]) // every >= patience
    if stop:
        log.info(
            "stopping early at step %d: validation Dice %.4f of step %d was not beaten in %d "
            "validations",
            *(step, best[1], best[0], patience),
        )
    return stop
