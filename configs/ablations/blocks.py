r"""Which encoder blocks are fused, and how: the last one, four, all of them equally or learned.

    python -m lagseg_jax.study --study=configs/ablations/blocks.py --config=configs/giant.py \
        --workdir=runs/blocks --seeds=3 --config.data.root=DATASET \
        --config.encoder.weights=weights/giant
"""

import ml_collections

from lagseg_jax.config.choices import VARIANTS


def get_study(config: ml_collections.ConfigDict) -> dict:
    """Arms for the depth of the base config's encoder."""
    depth = VARIANTS[config.encoder.variant]["depth"]
    four = ",".join(str(quarter * depth // 4 - 1) for quarter in (1, 2, 3, 4))
    return {
        "title": f"Fused blocks of DINOv2 {config.encoder.variant} ({depth} blocks)",
        "reference": "last_block",
        "arms": {
            "last_block": {"fusion.blocks": "last"},
            "four_blocks": {"fusion.blocks": four, "fusion.learned": True},
            "all_equal": {"fusion.blocks": "all", "fusion.learned": False},
            "all_learned": {"fusion.blocks": "all", "fusion.learned": True},
        },
    }
