"""ViT-B/14: 12 frozen blocks, 86.6 M parameters.

    python -m weight_conversion.convert --input=facebook/dinov2-base --output=weights/base
    python -m lagseg_jax.main --config=configs/base.py --workdir=runs/base \
        --config.data.root=DATASET --config.encoder.weights=weights/base

For a GPU or TPU. Hardware, time and result: not measured yet, for want of the published weights.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The default recipe with this encoder."""
    config = default.get_config()
    config.encoder.variant = "base"
    return config
