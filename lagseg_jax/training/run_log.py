"""What people and programs see of a training: progress, `metrics.jsonl`, TensorBoard files."""

from pathlib import Path

from lagseg_jax.runs.metrics_log import MetricsWriter
from lagseg_jax.runtime.console import Progress, Watchdog
from lagseg_jax.runtime.processes import process
from lagseg_jax.training.metrics import TrainMetrics
from lagseg_jax.training.monitor import Meter
from lagseg_jax.training.plan import Plan
from lagseg_jax.training.step import StepOutcome


class RunLog:
    """The log of one start of a training; the first of several processes writes for all.

    A row is written when its step is over: with the scores of the validation, if there was one. A
    validation that was cut short and is made by the next start completes the row of its step.

    Args:
        workdir: gets `metrics.jsonl` and `tensorboard/`.
        header: first row of a new `metrics.jsonl`.
        plan: of the training.
        start: steps done before.
        meter: means and speed.
    """

    def __init__(self, workdir: Path, header: dict, plan: Plan, start: int, meter: Meter):
        self._meter, self._plan, self._done = meter, plan, start
        self._note: dict[str, str] = {}
        self._has_validated = False
        self._row: dict[str, float] = {}
        self._writer = MetricsWriter(workdir, header, start) if process()[0] == 0 else None
        self._progress = Progress("training", plan.steps, start)
        self._watchdog = Watchdog(f"at training step {start + 1}")

    def add(self, step: int, metrics: TrainMetrics, outcome: StepOutcome) -> None:
        """Takes the metrics of a step."""
        self._meter.add(metrics, outcome)
        if self._plan.logs(step):
            self._row = self._meter.read(step)
            self._note["loss"] = f"{self._row['loss']:.4f}"

    def end(self, step: int, scores: dict[str, float] | None) -> None:
        """Ends a step: writes its row, if there is anything to say, and advances the progress."""
        compiled = scores is not None and not self._has_validated
        if scores is not None:
            self._has_validated = True
            self._note["validation dice"] = f"{scores['validation_dice']:.4f}"
            self._meter.restart_clock(step)
            self._row |= scores
        if self._row and self._writer is not None:
            self._writer.write(step, self._row)
        self._row = {}
        self._watchdog.tell(f"at training step {step + 1}")
        if step > self._done:
            self._done = step
            self._progress.advance(self._note, compiled)

    def close(self) -> None:
        """Ends the watchdog and closes the files."""
        self._watchdog.close()
        self._progress.close()
        if self._writer is not None:
            self._writer.close()
