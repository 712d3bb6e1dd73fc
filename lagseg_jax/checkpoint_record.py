"""train state, data position, Dice -> the record in a checkpoint, whose SHA-256 show any change."""

import hashlib
import json
import math

import jax

from lagseg_jax.train_step import TrainState
from lagseg_jax.weights import params_hash


def make_record(
    state: TrainState, data: dict, encoder_hash: str, validation_dice: float | None
) -> dict:
    """What a checkpoint says about itself, for JSON; arguments as in `Checkpoints.save`."""
    finite = validation_dice is not None and math.isfinite(validation_dice)
    record = {
        "data": data,
        "encoder_sha256": encoder_hash,
        "validation_dice": validation_dice if finite else None,
        "sha256": {"params": tree_hash(state.params), "opt_state": tree_hash(state.opt_state)},
    }
    return record | {"record_sha256": _content_hash(record)}


def is_whole(record: dict) -> bool:
    """Whether the record is what was saved."""
    return record["record_sha256"] == _content_hash(record)


def tree_hash(tree) -> str:
    """SHA-256 (hexadecimal) over paths, shapes, dtypes and bytes of the arrays of any tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return params_hash({jax.tree_util.keystr(path): leaf for path, leaf in leaves})


def _content_hash(record: dict) -> str:
    content = {key: value for key, value in record.items() if key != "record_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
