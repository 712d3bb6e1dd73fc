"""The training loop: one step after another, with validations, checkpoints and a log."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections

from lagseg_jax.data.batches import split_over_devices
from lagseg_jax.data.cases import Case
from lagseg_jax.model.frozen_encoder import FrozenEncoder
from lagseg_jax.runs.train_state import TrainState
from lagseg_jax.runs.workdir import has_checkpoints, write_config
from lagseg_jax.runtime.devices import settled
from lagseg_jax.runtime.errors import Interrupted
from lagseg_jax.runtime.processes import once, preempted
from lagseg_jax.runtime.signals import deferred
from lagseg_jax.runtime.trace import stage
from lagseg_jax.training.monitor import Watch
from lagseg_jax.training.plan import stopped_early
from lagseg_jax.training.programs import Programs
from lagseg_jax.training.setup import Training, set_up


def train(
    config: ml_collections.ConfigDict,
    workdir: Path,
    split: dict[str, list[Case]],
    encoder: FrozenEncoder,
    programs: Programs,
) -> list[int]:
    """Trains head and adapter (if asked for), or continues from the workdir's newest checkpoint.

    Args:
        config: checked by `validate.check_config`.
        workdir: gets `checkpoints/`, `metrics.jsonl`, `tensorboard/`, and `profile/` if asked for;
            of a run that continues, `config.json` once all files are accepted.
        split: from `data.run_split.load_split`.
        encoder: the frozen encoder.
        programs: from `programs.begin_compiling`.

    Returns:
        The steps whose checkpoints could not be saved, for want of disk space, say.

    Raises:
        InputError: a volume cannot be used, or there are checkpoints and none of them is whole.
        TrainingError: `config.train.max_skipped` steps in a row had no finite loss and gradient.
        Interrupted: by a signal; the step it came in is saved, unless it was skipped.
    """
    with contextlib.ExitStack() as at_end, deferred() as asked:
        training, state = set_up(config, workdir, split, encoder, programs, at_end)
        if has_checkpoints(workdir):  # else `main` has written it
            once(write_config, workdir, config)
        _loop(training, state, asked)
    return training.checkpoints.failed


def _loop(training: Training, state: TrainState, asked: Callable[[], bool]) -> None:
    """All steps after that of `state`; `asked` says whether this process was asked to stop."""
    plan, checkpoints, start = training.plan, training.checkpoints, int(state.step)
    # A validation that a signal cut short is made now.
    evaluate = save = plan.evaluates(start) and not checkpoints.is_validated(start)
    for step in range(start if evaluate else start + 1, plan.steps + 1):
        if stopped_early(plan, checkpoints, step - 1):
            break
        if step > start:
            which = "first step" if step == start + 1 else "other steps"
            with training.profiler.step(step), stage(which):
                batch = next(training.batches)
                shares = split_over_devices(batch, jax.local_device_count())
                rate = training.rate(state.step)
                result = training.train_step(state, rate, training.encoder_params, shares)
                state, metrics, outcome = settled(result)
            training.profiler.end(step, outcome)
            training.watch.add(step, batch["case"], outcome)
            training.run_log.add(step, metrics, outcome)
        # What is due waits for a step that changed something, but not beyond the last step.
        evaluate, save = evaluate or plan.evaluates(step), save or plan.saves(step)
        scores = None
        if evaluate and (training.watch.settle() or step == plan.steps):
            scores = training.validator.run(state, asked)
        training.run_log.end(step, scores)
        stop = preempted(step, asked())
        if (save or scores or stop) and _is_sound(training.watch, scores):
            dice = scores["validation_dice"] if scores else None
            checkpoints.save(state, training.batches.state(), dice)
            evaluate = save = False
        if stop:
            raise Interrupted(f"stopped by a signal after step {step}")
    training.watch.settle()


def _is_sound(watch: Watch, scores: dict[str, float] | None) -> bool:
    """Whether training may continue from a state: it must give a finite loss."""
    return watch.settle() or (scores is not None and math.isfinite(scores["validation_loss"]))
