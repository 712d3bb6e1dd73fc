"""ViT-S/14.

    python -m lagseg_jax.main --config=configs/small.py --workdir=runs/small \
        --config.data.root=DATASET --config.encoder.weights=weights/small
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The default recipe with another encoder."""
    config = default.get_config()
    config.encoder.variant = "small"
    return config
