"""What a run has left in its workdir, and whether two runs have left the same."""

import json
import warnings
from pathlib import Path

import tiny_run


def rows(workdir):
    """The whole rows of metrics.jsonl after the header."""
    try:
        lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines[1:] if line.endswith("\n")]


def saved_steps(workdir):
    """Steps of the checkpoints that are there, in order."""
    folder = Path(workdir) / "checkpoints"
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def raw_checkpoint(workdir, step):
    """All arrays of a checkpoint, read by Orbax alone."""
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer, warnings.catch_warnings():
        # It does not matter here on which device they are put.
        warnings.filterwarnings("ignore", "Sharding info not provided when restoring")
        return checkpointer.restore(Path(workdir) / "checkpoints" / str(step) / "state")


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(workdir, reference):
    """Parameters, optimiser, best checkpoint and logged values, bit for bit."""
    import jax
    import numpy as np

    from lagseg_jax.runs.checkpoint import Checkpoints

    last = tiny_run.STEPS
    jax.tree.map(
        np.testing.assert_array_equal,
        raw_checkpoint(workdir, last),
        raw_checkpoint(reference, last),
    )
    timing = {"slices_per_second": 0}
    for a, b in zip(rows_of(workdir), rows_of(reference), strict=True):
        assert a | timing == b | timing
    bests = []
    for folder in (workdir, reference):
        with Checkpoints(folder, encoder_hash="", read_only=True) as checkpoints:
            bests.append(checkpoints.best())
    assert bests[0] == bests[1]
