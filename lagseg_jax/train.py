"""config -> trained head in the workdir: data, pmapped steps, validation, checkpoints, logs."""

import logging
import time
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
from lagseg_jax.cache import Preparation, cache_folder, prepare_cases
from lagseg_jax.checkpoint import Checkpoints
from lagseg_jax.dataset import Case
from lagseg_jax.devices import replicate
from lagseg_jax.frozen import FrozenEncoder
from lagseg_jax.logs import MetricsWriter, Progress
from lagseg_jax.model import build_model
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


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what is kept."""


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
    devices = jax.local_device_count()
    process = (jax.process_index(), jax.process_count())
    check_batch_size("config.train.batch_size", options.batch_size, jax.device_count())
    preparation = Preparation(data.image_size, tuple(data.clip_percentiles), data.label_value)
    sources = {}
    for part in ("train", "validation"):
        folder = cache_folder(data.cache_dir)
        sources[part] = SliceSource(prepare_cases(split[part], preparation, folder, data.cache_gb))
    per_epoch = max(1, len(sources["train"]) // options.batch_size)
    steps = max(1, round(options.epochs * per_epoch))
    evaluate_every = options.evaluate_every or per_epoch
    checkpoint_every = options.checkpoint_every or evaluate_every

    model = build_model(config, encoder.spec)
    optimizer = make_optimizer(options, steps)
    state = init_state(model.init_head(jax.random.key(config.seed), data.image_size), optimizer)
    state = replicate(state)
    sizes = {name: parameter_overview.count_parameters(tree) for name, tree in state.params.items()}
    log.info("trained parameters: %s", ", ".join(f"{n:,} {name}" for name, n in sizes.items()))
    batches = TrainingBatches(
        sources["train"], options.batch_size, config.seed, data.read_threads, process
    )
    checkpoints = Checkpoints(workdir, encoder.sha256)
    if checkpoints.newest() is not None:
        state, position = checkpoints.restore(checkpoints.newest(), state)
        batches.restore(position)
        log.info("continuing from step %d (%s)", int(state.step), checkpoints.folder)
    start = int(state.step)

    augmentation = augmentation_of(config.augment)
    step_fn = make_train_step(model, optimizer, options.loss, augmentation, config.seed)
    train_step = jax.pmap(step_fn, AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=0)
    validation_fn = make_validation_step(model, options.loss, len(split["validation"]))
    validation_step = jax.pmap(validation_fn, AXIS, in_axes=(None, None, 0), out_axes=None)

    def validate(state: TrainState) -> dict[str, float]:
        total = None
        for batch in evaluation_batches(sources["validation"], options.batch_size, process):
            batch = split_over_devices(batch, devices)
            metrics = validation_step(state.params, encoder.params, batch)
            total = metrics if total is None else total.merge(metrics)
            jax.block_until_ready(total)
        return {f"validation_{k}": float(v) for k, v in total.compute().items()}

    header = {"encoder": encoder.report(), "steps": steps, "slices": len(sources["train"])}
    writer = MetricsWriter(workdir, header, start)
    schedule = learning_rate(options, steps)
    log.info(
        "training: %d steps of %d slices on %d devices (%s), %d steps per epoch",
        *(steps, options.batch_size, jax.device_count(), jax.devices()[0].device_kind, per_epoch),
    )
    progress = Progress("training", steps, start)
    note, total, last_time, last_step = {}, None, time.monotonic(), start
    try:
        for step in range(start + 1, steps + 1):
            if _stopped_early(checkpoints, step - 1, evaluate_every, options.patience):
                break
            batch = split_over_devices(next(batches), devices)
            state, metrics = train_step(state, encoder.params, batch)
            total = metrics if total is None else total.merge(metrics)
            if jax.default_backend() == "cpu":
                # Collectives of simulated CPU devices deadlock when steps overlap.
                jax.block_until_ready(metrics)
            row = {}
            if step % options.log_every == 0 or step == steps:
                row = {name: float(value) for name, value in total.compute().items()}
                if not row["loss"] < float("inf"):
                    kept = checkpoints.newest()
                    raise TrainingError(
                        f"the loss is {row['loss']} at step {step}; the newest checkpoint in "
                        f"{checkpoints.folder} is that of step {kept}"
                    )
                seconds, total = time.monotonic() - last_time, None
                row["learning_rate"] = float(schedule(step - 1))
                row["slices_per_second"] = (step - last_step) * options.batch_size / seconds
                last_time, last_step = time.monotonic(), step
                note["loss"] = f"{row['loss']:.4f}"
            validation = {}
            if step % evaluate_every == 0 or step == steps:
                validation = validate(state)
                note["validation dice"] = f"{validation['validation_dice']:.4f}"
                last_time, last_step = time.monotonic(), step
            if row or validation:
                writer.write(step, row | validation)
            if validation or step % checkpoint_every == 0:
                checkpoints.save(state, batches.state(), validation.get("validation_dice"))
            progress.advance(note)
    finally:
        progress.close()
        writer.close()
        batches.close()
        checkpoints.close()


def _stopped_early(checkpoints: Checkpoints, step: int, every: int, patience: int) -> bool:
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
