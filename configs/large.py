"""ViT-L/14.

    python -m lagseg_jax.main --config=configs/large.py --workdir=runs/large \
        --config.data.root=DATASET --config.encoder.weights=weights/large
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The default recipe with another encoder."""
    config = default.get_config()
    config.encoder.variant = "large"
    return config
