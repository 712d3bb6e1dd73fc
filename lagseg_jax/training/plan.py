"""When what happens in a training: steps, validations, checkpoints, rows of the log, the end."""

import dataclasses
import logging

import ml_collections

from lagseg_jax.runs.checkpoint import Checkpoints

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """When what happens, in optimiser steps counted from 1."""

    steps: int
    per_epoch: int
    evaluate_every: int
    checkpoint_every: int
    log_every: int
    patience: int  # validations without a better Dice before training stops; 0: never

    def logs(self, step: int) -> bool:
        """Whether the log gets a row about this step and those since the last row."""
        return self._due(step, self.log_every)

    def evaluates(self, step: int) -> bool:
        """Whether a validation follows this step."""
        return self._due(step, self.evaluate_every)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows this step."""
        return self._due(step, self.checkpoint_every)

    def _due(self, step: int, every: int) -> bool:
        return step > 0 and (step % every == 0 or step == self.steps)


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
        patience=options.patience,
    )


def stopped_early(plan: Plan, checkpoints: Checkpoints, step: int) -> bool:
    """Whether the last `plan.patience` validations, up to this step, did not beat an older one.

    Asked of the checkpoints, so that a run that is continued stops where it would have stopped.
    """
    if not plan.patience or step % plan.evaluate_every:
        return False
    best = checkpoints.best()
    if best is None or (step - best[0]) // plan.evaluate_every < plan.patience:
        return False
    log.info(
        "stopping early at step %d: validation Dice %.4f of step %d was not beaten in %d "
        "validations",
        *(step, best[1], best[0], plan.patience),
    )
    return True
