"""ViT-B/14.

    python -m lagseg_jax.main --config=configs/base.py --workdir=runs/base \
        --config.data.root=DATASET --config.encoder.weights=weights/base
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The default recipe with another encoder."""
    config = default.get_config()
    config.encoder.variant = "base"
    return config
