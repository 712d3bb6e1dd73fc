r"""Few-shot curve: 5, 10, 25, 50 and 100 % of the training patients, smaller within larger sets.

    python -m lagseg_jax.study --study=configs/ablations/fractions.py --config=configs/giant.py \
        --workdir=runs/fractions --seeds=3 --config.data.root=DATASET \
        --config.encoder.weights=weights/giant --config.train.steps=3000

Validation and test patients are the same in every arm, and so is the number of optimiser steps: a
smaller set is seen more often, not trained less.
"""

import ml_collections

from configs.ablations.patients import same_steps


def get_study(config: ml_collections.ConfigDict) -> dict:
    """Arms with the steps of the base config."""
    budget = same_steps(config)
    return {
        "title": "Dice against the part of the training patients",
        "reference": "percent_100",
        "curve": True,
        "arms": {
            f"percent_{percent}": {"data.train_fraction": percent / 100, **budget}
            for percent in (5, 10, 25, 50, 100)
        },
    }
