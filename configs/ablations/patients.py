r"""Few-shot curve: 1, 2, 4, ... and all training patients; smaller sets lie within larger ones.

    python -m lagseg_jax.study --study=configs/ablations/patients.py --config=configs/giant.py \
        --workdir=runs/patients --seeds=3 --config.data.root=DATASET \
        --config.encoder.weights=weights/giant --config.train.steps=3000

Validation and test patients are the same in every arm, and so is the number of optimiser steps: a
smaller set is seen more often, not trained less. Leave out what the dataset is too small for with
--arms, e.g. --arms=patients_1,patients_4,all.
"""

import ml_collections


def get_study(config: ml_collections.ConfigDict) -> dict:
    """Arms with the steps of the base config."""
    budget = same_steps(config)
    counts = (1, 2, 4, 8, 16, 32, 64)
    few = {f"patients_{n}": {"data.train_patients": n, **budget} for n in counts}
    return {
        "title": "Dice against the number of training patients",
        "reference": "all",
        "curve": True,
        "arms": few | {"all": {"data.train_patients": 0, **budget}},
    }


def same_steps(config: ml_collections.ConfigDict) -> dict:
    """The optimiser steps and validations that every arm of a few-shot study gets."""
    steps = config.train.steps or 3000
    every = config.train.evaluate_every or max(1, steps // 20)
    return {"train.steps": steps, "train.evaluate_every": every}
