r"""The encoder's size: ViT-S/14, ViT-B/14, ViT-L/14 and ViT-g/14, with weights/small and so on.

    python -m lagseg_jax.study --study=configs/ablations/variants.py --config=configs/base.py \
        --workdir=runs/variants --seeds=3 --config.data.root=DATASET \
        --config.encoder.weights='weights/{variant}'
"""

import ml_collections


def get_study(config: ml_collections.ConfigDict) -> dict:
    """`{variant}` in the base config's folder of weights becomes the variant of the arm."""
    weights = config.encoder.weights
    return {
        "title": "Variants of the DINOv2 encoder",
        "reference": "base",
        "arms": {
            variant: {
                "encoder.variant": variant,
                "encoder.weights": weights.replace("{variant}", variant),
            }
            for variant in ("small", "base", "large", "giant")
        },
    }
