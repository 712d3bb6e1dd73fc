"""ViT-L/14: 24 frozen blocks, 304.4 M parameters.

    python -m weight_conversion.convert --input=facebook/dinov2-large --output=weights/large
    python -m lagseg_jax.main --config=configs/large.py --workdir=runs/large \
        --config.data.root=DATASET --config.encoder.weights=weights/large

For a GPU or TPU. Hardware, time and result: not measured yet, for want of the published weights.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The default recipe with this encoder."""
    config = default.get_config()
    config.encoder.variant = "large"
    return config
