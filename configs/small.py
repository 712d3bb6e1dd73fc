"""ViT-S/14: 12 frozen blocks, 22.1 M parameters.

    python -m weight_conversion.convert --input=facebook/dinov2-small --output=weights/small
    python -m lagseg_jax.main --config=configs/small.py --workdir=runs/small \
        --config.data.root=DATASET --config.encoder.weights=weights/small

For a GPU or TPU. Hardware, time and result: not measured yet, for want of the published weights.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The default recipe with this encoder."""
    config = default.get_config()
    config.encoder.variant = "small"
    return config
