"""What the host makes of the metrics and the outcome of each step: means, and skipped steps."""

import logging
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from lagseg_jax.runtime.errors import TrainingError
from lagseg_jax.training.metrics import TrainMetrics, computed, merged
from lagseg_jax.training.step import StepOutcome

log = logging.getLogger(__name__)


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
        self._skipped: list[jax.Array] = []
        self.restart_clock(step)

    def restart_clock(self, step: int) -> None:
        """Leaves out what is no training (validation, say) from the speed."""
        self._step, self._time = step, time.monotonic()

    def add(self, metrics: TrainMetrics, outcome: StepOutcome) -> None:
        """Adds those of one step."""
        self._total = metrics if self._total is None else merged(self._total, metrics)
        self._skipped.append(outcome.skipped)

    def read(self, step: int) -> dict[str, float]:
        """The row for this step; starts anew.

        Means are over the steps that were not skipped, NaN where all of them were.
        """
        assert self._total is not None  # a row is about at least one step
        row = {name: float(value) for name, value in computed(self._total).items()}
        row["skipped_steps"] = int(sum(np.asarray(skipped) for skipped in self._skipped))
        seconds = time.monotonic() - self._time
        row["learning_rate"] = float(self._schedule(step - 1))
        row["slices_per_second"] = (step - self._step) * self._batch_size / seconds
        self._total, self._skipped = None, []
        self.restart_clock(step)
        return row


class Watch:
    """Looks at the outcome of each step when the next one is under way: no device waits for it.

    Args:
        cases: names of the training cases, which `batch["case"]` counts from 0.
        limit: so many skipped steps in a row end the training.
    """

    def __init__(self, cases: Sequence[str], limit: int):
        self._cases, self._limit = cases, limit
        self._pending: tuple[int, np.ndarray, StepOutcome] | None = None
        self._bad: list[str] = []  # cases of the steps skipped in a row
        self._in_a_row = 0

    def add(self, step: int, cases: np.ndarray, outcome: StepOutcome) -> None:
        """Notes a step, and looks at the one before it.

        Args:
            step: its number.
            cases: (B,) the cases of this process' part of the batch.
            outcome: of the step, perhaps not computed yet.

        Raises:
            TrainingError: `limit` steps in a row were skipped.
        """
        self.settle()
        self._pending = step, cases, outcome

    def settle(self) -> bool:
        """Looks at the last step that was added, and raises as `add`; whether it was made."""
        if self._pending is not None:
            (step, cases, outcome), self._pending = self._pending, None
            if outcome.skipped:
                self._skip(step, cases)
            else:
                self._bad, self._in_a_row = [], 0
        return not self._in_a_row

    def _skip(self, step: int, cases: np.ndarray) -> None:
        names = [self._cases[case] for case in np.unique(cases)]
        self._bad = sorted({*self._bad, *names})
        self._in_a_row += 1
        log.warning(
            "step %d changed nothing, because its loss or gradient is not finite; "
            "its slices are of %s",
            *(step, ", ".join(names)),
        )
        if self._in_a_row >= self._limit:
            raise TrainingError(
                f"the loss or gradient was not finite in {self._in_a_row} steps in a row, up to "
                f"step {step}, with slices of {', '.join(self._bad)}: training stops, and the "
                f"newest checkpoint is from before step {step - self._in_a_row + 1}"
            )
