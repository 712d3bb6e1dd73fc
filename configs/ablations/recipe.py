r"""The config itself: several seeds of one split, or the five folds of nnU-Net's seeded split.

    python -m lagseg_jax.study --study=configs/ablations/recipe.py --config=configs/giant.py \
        --workdir=runs/seeds --seeds=5 --config.data.root=DATASET \
        --config.encoder.weights=weights/giant

    python -m lagseg_jax.study --study=configs/ablations/recipe.py --config=configs/giant.py \
        --workdir=runs/folds --cross_validate --config.data.root=DATASET \
        --config.encoder.weights=weights/giant
"""

import ml_collections


def get_study(config: ml_collections.ConfigDict) -> dict:
    """One arm, nothing changed."""
    return {
        "title": f"DINOv2 {config.encoder.variant}, {config.train.loss} loss",
        "reference": None,
        "arms": {"recipe": {}},
    }
