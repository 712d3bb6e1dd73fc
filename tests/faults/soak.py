"""Thousands of training steps in one process: python tests/faults/soak.py --steps=5000

The tiny config, with a validation, a checkpoint and a log line now and then. Prints, and bounds,
what must not grow: memory, threads, open files, the time of a step, and the compilations. The time
is that of the processor, which other programs on the machine change little.
"""

import argparse
import collections
import logging
import os
import re
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from lagseg_jax import main
from lagseg_jax.data.batches import TrainingBatches
from runs import tiny_run

COMPILED = re.compile(r"Finished XLA compilation of (\S+)")


class Probe:
    """Notes what the process uses, before each step.

    Attributes:
        times: processor time and wall clock, s (N, 2).
        usage: resident memory in MB, threads, and open files (N, 3).
        compiled: names of compiled functions, with the number of steps begun by then.
    """

    def __init__(self):
        self.times, self.usage, self.compiled = [], [], []

    def __enter__(self):
        following, logger = TrainingBatches.__next__, logging.getLogger("jax._src.dispatch")

        def next_noted(batches):
            self.note()
            return following(batches)

        handler = logging.Handler()
        handler.emit = self.note_compilation
        TrainingBatches.__next__ = next_noted
        level, propagate = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False

        def undo():
            TrainingBatches.__next__ = following
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate

        self._undo = undo
        return self

    def __exit__(self, *_):
        self._undo()

    def note(self):
        self.times.append((time.process_time(), time.perf_counter()))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        self.usage.append((memory, threading.active_count(), len(os.listdir("/proc/self/fd"))))

    def note_compilation(self, record):
        if found := COMPILED.search(record.getMessage()):
            self.compiled.append((found[1], len(self.times)))


def soak(folder, steps, every):
    """Trains that long; returns the figures.

    Args:
        folder: for everything that is written.
        steps: of the training; the first and the last tenth are compared.
        every: steps between checkpoints, validations and log lines; at most a 20th of the steps,
            so that all there is to compile is compiled in the first tenth.
    """
    root = tiny_run.write_phantom(Path(folder))
    config = tiny_run.config(root, steps=steps, evaluate_every=every, log_every=every, patience=0)
    config.train.checkpoint_every = every
    with Probe() as probe:
        main.run(config, Path(folder) / "run", "train")
    tenth = steps // 10
    first, last = slice(tenth, 2 * tenth), slice(-tenth, None)
    cpu, wall = (np.diff(np.array(probe.times)[:, i]) * 1000 for i in (0, 1))
    usage = np.array(probe.usage)
    later = collections.Counter(n for n, step in probe.compiled if tenth <= step < steps)
    return {
        "steps": len(usage),
        "memory_growth_mb": usage[last, 0].max() - usage[first, 0].max(),
        "threads": [int(usage[part, 1].max()) for part in (first, last)],
        "open_files": [int(usage[part, 2].max()) for part in (first, last)],
        "cpu_ms": [float(np.median(cpu[part])) for part in (first, last)],
        "wall_ms": [float(np.median(wall[part])) for part in (first, last)],
        "compilations": len(probe.compiled),
        "compilations_later": dict(later),
    }


def main_():
    """Prints the figures, and fails where they are beyond their bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--every", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(folder, arguments.steps, arguments.every)
    figures["drift"] = figures["cpu_ms"][1] / figures["cpu_ms"][0] - 1
    for name, value in figures.items():
        print(f"{name}: {value}")
    assert figures["compilations"] and not figures["compilations_later"]
    assert figures["memory_growth_mb"] < 50
    for name in ("threads", "open_files"):
        assert figures[name][1] <= figures[name][0], name
    assert figures["drift"] <= 0.05


if __name__ == "__main__":
    main_()
