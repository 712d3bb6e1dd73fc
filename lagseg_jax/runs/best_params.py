"""Restores the trained parameters of a run's best checkpoint."""

from pathlib import Path

import jax

from lagseg_jax.runs.checkpoint import Checkpoints
from lagseg_jax.runtime.devices import replicated
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.trace import stage


@stage("weights")
def restore_best(workdir: Path, encoder_hash: str, expected: dict) -> tuple[int, dict]:
    """The step and the parameters of the best checkpoint, of the newest before any validation.

    Args:
        workdir: of the run, which may be training right now.
        encoder_hash: SHA-256 of the frozen encoder.
        expected: tree of `jax.ShapeDtypeStruct`, of the parameters.

    Returns:
        The training step, and the parameters on all local devices.

    Raises:
        InputError: no checkpoint, one of another encoder, or a damaged one.
    """
    sharding = replicated()
    like = jax.tree.map(lambda leaf: leaf.update(sharding=sharding), expected)
    with Checkpoints(workdir, encoder_hash, read_only=True) as checkpoints:
        best = checkpoints.best()
        step = best[0] if best else checkpoints.newest()
        if step is None:
            raise InputError(
                f"{workdir} has no checkpoint, expected a folder where training has run"
            )
        return step, checkpoints.restore_params(step, like)
