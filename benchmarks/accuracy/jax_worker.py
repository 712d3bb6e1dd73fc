"""The JAX worker of the accuracy benchmark: ordinary runs (see common/worker.py)."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections

from benchmarks.common import machine
from benchmarks.common.timing import CLOCKS
from lagseg_jax.config.flags import parse_flags
from lagseg_jax.config.validate import check_config
from lagseg_jax.data.run_split import load_split
from lagseg_jax.evaluation.evaluate import evaluate
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.inference.load_segmenter import restore_segmenter
from lagseg_jax.model.frozen_encoder import FrozenEncoder, load_frozen_encoder
from lagseg_jax.runs.workdir import write_config
from lagseg_jax.training.loop import train as train_run
from lagseg_jax.training.programs import begin_compiling

SHORT = (4, 44)  # steps of two trainings that tell what a start and a step cost,
ENOUGH = 0.04  # of the time; with fewer steps than that, starts that differ would hide them
MOST_GROWTH = 16  # of the longer one, which noise may have made too short


def train(
    arguments: list[str], folder: str, minutes: float, clock: str, steps: int | None = None
) -> dict:
    """Trains for so many minutes by the clock, and evaluates; the folder is the workdir.

    `steps` are those that fit, where a run like this one has told; None: they are measured.
    """
    workdir, now = Path(folder), CLOCKS[clock]
    config = parse_flags(arguments, lambda values: None).config
    config.train.patience = 0
    check_config(config)
    split = load_split(config, workdir)
    encoder = load_frozen_encoder(config)
    config.train.steps = steps or affordable_steps(config, split, encoder, 60 * minutes, now)
    config.train.evaluate_every = config.train.steps
    write_config(workdir, config)
    start = now()
    train_run(config, workdir, split, encoder, begin_compiling(config))
    seconds = now() - start
    segmenter = restore_segmenter(config, workdir, encoder)
    evaluate(segmenter, split["test"], workdir / "evaluation")
    volume = read_volume(split["test"][0].image)
    start = now()
    segmenter.predict_volume(volume.array, volume.spacing, volume.affine)
    return {
        "steps": config.train.steps,
        "seconds": seconds,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(segmenter.head_params)),
        "volume_seconds": now() - start,
        "warning": encoder.warning,
        "versions": machine.versions(),
    }


def affordable_steps(
    config: ml_collections.ConfigDict,
    split: dict,
    encoder: FrozenEncoder,
    seconds: float,
    now: Callable[[], float],
) -> int:
    """How many steps fit, with compilation, one validation and the checkpoint."""
    config = config.copy_and_resolve_references()

    def taken(steps: int) -> float:
        config.train.steps = config.train.evaluate_every = steps
        with tempfile.TemporaryDirectory() as folder:
            start = now()
            train_run(config, Path(folder), split, encoder, begin_compiling(config))
            return now() - start

    taken(1)  # decodes the volumes as well, which does not count
    few, many = SHORT
    start = taken(few)
    while (longer := taken(many) - start) < ENOUGH * seconds:
        growth = 1.2 * ENOUGH * seconds / longer if longer > 0 else MOST_GROWTH
        many = few + math.ceil(min(max(growth, 1.2), MOST_GROWTH) * (many - few))
    step = longer / (many - few)
    return max(1, int((seconds - start) / step) + few)


COMMANDS = {"train": train}
