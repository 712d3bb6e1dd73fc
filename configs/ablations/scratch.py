r"""What the recipe of configs/scratch.py is made of, one change in each arm: at equal time, with

    python -m benchmarks.accuracy --study=configs/ablations/scratch.py --config=configs/scratch.py \
        --minutes=2 --seeds=3 --workdir=runs/scratch_arms --data=DATASET --no_peer

or at equal steps, with

    python -m lagseg_jax.study --study=configs/ablations/scratch.py --config=configs/scratch.py \
        --workdir=runs/scratch_study --seeds=3 --config.data.root=DATASET

Not run on a GPU yet. At small size on a CPU, over three seeds, no change of learning rate, batch,
weight decay or grey augmentation paid beyond the noise of seeds and cases; weaker greys came
nearest, and stronger geometry cost 0.028. Neighbouring slices, Dice over the batch, more slices
with atrium, mirroring and a moving average are no fields: all were tried in copies of the code.
Figures: docs/log/2026-11-28-scratch.md.
"""

import ml_collections


def get_study(config: ml_collections.ConfigDict) -> dict:
    """For configs/scratch.py as the base config."""
    return {
        "title": "Training from scratch, one change at a time",
        "reference": "recipe",
        "arms": {
            "recipe": {},
            "default_greys": {"augment.gamma": 0.3, "augment.contrast": 0.0},
            "size_112": {"data.image_size": 112},
            "size_224": {"data.image_size": 224},
            "batch_8": {"train.batch_size": 8},
            "batch_32": {"train.batch_size": 32},
            "faster_learning": {"train.learning_rate": 2e-3},
            "slower_learning": {"train.learning_rate": 5e-4},
            "weight_decay": {"train.weight_decay": 0.01},
            "narrow": {"decoder.scales": (8, 4, 2), "decoder.widths": (64, 48, 32, 24)},
            "full_resolution": {
                "decoder.scales": (8, 4, 2, 1),
                "decoder.widths": (256, 128, 64, 32, 16),
            },
            "resized_image": {"decoder.image_path": "resized"},
            "stronger_geometry": {
                "augment.rotation_degrees": 30.0,
                "augment.scale": 0.3,
                "augment.translation": 0.1,
            },
            "smoothed": {"predict.smooth_mm": 0.625},
            "small_encoder": {"encoder.variant": "small"},
        },
    }
