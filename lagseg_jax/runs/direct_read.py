"""Reads the parameters of a run's best checkpoint from Orbax' files, without loading Orbax.

Orbax takes as long to load and to read them as half of jax does to load, at every prediction
(docs/log/2026-11-28-start.md). A record beside the arrays says their SHA-256; whatever is not just
as expected here is left to Orbax and to the sentences of `checkpoint`.
"""

import json
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from lagseg_jax.runs.train_state import best_validated, is_whole
from lagseg_jax.runtime.devices import tree_hash


def read_best(workdir: Path, encoder_hash: str, expected: dict) -> tuple[int, dict] | None:
    """The step and the parameters of the best checkpoint, of the newest before any validation.

    Args:
        workdir: of the run, which may be training right now.
        encoder_hash: SHA-256 of the frozen encoder.
        expected: tree of `jax.ShapeDtypeStruct`, of the parameters.

    Returns:
        The training step, and the parameters as NumPy arrays; None for checkpoints that are
        missing, damaged, of another encoder, or stored in another way.
    """
    folder = Path(workdir).absolute() / "checkpoints"
    try:
        records = {int(p.name): _record(p) for p in folder.iterdir() if p.name.isdecimal()}
        best = best_validated(records)
        step = best[0] if best else max(records)
        record = records[step]
        if not all(map(is_whole, records.values())) or record["encoder_sha256"] != encoder_hash:
            return None
        params = _arrays(folder / str(step) / "state", expected)
    except (OSError, ValueError, KeyError, TypeError):  # of many kinds, for the many files
        return None
    return (step, params) if tree_hash(params) == record["sha256"]["params"] else None


def _record(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "extra" / "metadata").read_text())


def _arrays(state: Path, expected: dict) -> dict:
    """The arrays of these names; all are read at the same time."""
    import tensorstore  # late: Orbax brings it, and only reading a checkpoint needs it

    store, context = {"driver": "ocdbt", "base": f"file://{state}/"}, tensorstore.Context()
    opened = {
        name: tensorstore.open(
            {"driver": "zarr", "kvstore": {**store, "path": f"params.{name}/"}},
            read=True,
            context=context,
        )
        for name in flatten_dict(expected, sep=".")
    }
    read = {name: array.result().read() for name, array in opened.items()}
    return unflatten_dict({name: array.result() for name, array in read.items()}, sep=".")
