"""ViT-g/14.

    python -m lagseg_jax.main --config=configs/giant.py --workdir=runs/giant \
        --config.data.root=DATASET --config.encoder.weights=weights/giant
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The default recipe with another encoder."""
    config = default.get_config()
    config.encoder.variant = "giant"
    return config
