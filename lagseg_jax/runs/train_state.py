"""All that training changes, and the record by which a checkpoint of it shows any damage."""

import hashlib
import json
import math
from typing import TYPE_CHECKING

import flax.struct
import jax

from lagseg_jax.runtime.devices import tree_hash

if TYPE_CHECKING:  # who reads parameters starts without it
    import optax


@flax.struct.dataclass
class TrainState:
    """All that training changes. The encoder is not in it, so it cannot be trained or saved."""

    step: jax.Array  # int32 scalar, optimiser steps done
    params: dict  # of the head, and of the adapter if there is one, float32
    opt_state: "optax.OptState"


def make_record(
    state: TrainState,
    data: dict,
    encoder_hash: str,
    validation_dice: float | None,
    split_hash: str = "",
) -> dict:
    """What a checkpoint says about itself, for JSON; arguments as in `Checkpoints.save`."""
    finite = validation_dice is not None and math.isfinite(validation_dice)
    record = {
        "data": data,
        "encoder_sha256": encoder_hash,
        "split_sha256": split_hash,
        "validation_dice": validation_dice if finite else None,
        "sha256": {"params": tree_hash(state.params), "opt_state": tree_hash(state.opt_state)},
    }
    return record | {"record_sha256": _content_hash(record)}


def is_whole(record: dict) -> bool:
    """Whether the record is what was saved."""
    return record["record_sha256"] == _content_hash(record)


def _content_hash(record: dict) -> str:
    content = {key: value for key, value in record.items() if key != "record_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
