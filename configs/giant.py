"""ViT-g/14: 40 frozen blocks, 1136.5 M parameters.

    python -m weight_conversion.convert --input=facebook/dinov2-giant --output=weights/giant
    python -m lagseg_jax.main --config=configs/giant.py --workdir=runs/giant \
        --config.data.root=DATASET --config.encoder.weights=weights/giant

For a GPU or TPU. Measured on one H200 with random weights: a step of 32 slices 185 ms, a volume of
88 slices 0.63 s, 13.5 GB of its memory (docs/performance.md). Result: not measured yet, for want of
the published weights. Predicted for LAScarQS 2022, task 2 (`python -m benchmarks.recipe_cost
--config=configs/giant.py`), at half the speed of the roofline: 0.43 hours on one H200, 0.17 on
eight A100 and 0.55 on a TPU v5e-8 (4 GB of each device).
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The default recipe with this encoder."""
    config = default.get_config()
    config.encoder.variant = "giant"
    return config
