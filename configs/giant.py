"""ViT-g/14: 40 frozen blocks, 1136.5 M parameters.

    python -m lagseg_jax.main --config=configs/giant.py --workdir=runs/giant \
        --config.data.root=DATASET --config.encoder.weights=weights/giant

For a GPU or TPU. Hardware, time and result: not measured yet, for want of the published weights.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The default recipe with this encoder."""
    config = default.get_config()
    config.encoder.variant = "giant"
    return config
