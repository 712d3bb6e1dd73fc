"""Traces some steps of a training for TensorBoard and Perfetto."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import jax

from lagseg_jax.runtime.processes import process
from lagseg_jax.training.step import StepOutcome

log = logging.getLogger(__name__)


class Profiler:
    """Writes one trace of the steps that `config.train.profile_steps` names.

    Of several processes, the first one traces itself. A trace that cannot be written is logged, and
    not an error.

    Args:
        folder: gets the trace, in the layout that TensorBoard's profile plugin opens.
        steps: the first and the last one, both traced; () for none. Steps that were done before
            the run was continued are not traced.
    """

    def __init__(self, folder: Path, steps: tuple[int, ...]):
        self._folder = folder
        self._first, self._last = steps if steps and process()[0] == 0 else (0, 0)
        self._tracing = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Names what happens in this block in the trace by the number of the step."""
        if self._first <= step <= self._last and not self._tracing:
            self._tracing = True
            with self._never_the_end():
                jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def end(self, step: int, outcome: StepOutcome) -> None:
        """Writes the trace after its last step, once the devices have done it."""
        if self._tracing and step >= self._last:
            jax.block_until_ready(outcome)
            self.close()

    def close(self) -> None:
        """Writes what there is of the trace."""
        if self._tracing:
            self._tracing = False
            with self._never_the_end():
                jax.profiler.stop_trace()
                log.info("profile: %s", self._folder)

    @contextlib.contextmanager
    def _never_the_end(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of many types, for a full disk or another trace
            log.error("ERROR: no profile can be written to %s (%s)", self._folder, error)
