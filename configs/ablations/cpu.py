r"""What the recipe of configs/cpu.py is made of, one change in each arm: at equal time, with

    python -m benchmarks.accuracy --study=configs/ablations/cpu.py --minutes=5 --seeds=1 \
        --workdir=runs/cpu_ablations --data=DATASET --no_peer

or at equal steps, with

    python -m lagseg_jax.study --study=configs/ablations/cpu.py --config=configs/cpu.py \
        --workdir=runs/cpu_study --config.data.root=DATASET

Results: docs/accuracy.md.
"""

import ml_collections


def get_study(config: ml_collections.ConfigDict) -> dict:
    """For configs/cpu.py as the base config."""
    half = {"decoder.scales": (8, 4, 2)}
    return {
        "title": "The recipe for CPUs, one change at a time",
        "reference": "recipe",
        "arms": {
            "recipe": {},
            "default_greys": {"augment.gamma": 0.3, "augment.contrast": 0.0},
            "adapted_encoder": {"encoder.lora_rank": 4},
            "resized_image": {"decoder.image_path": "resized"},
            "no_image": {"decoder.image_path": "resized", "decoder.image_injection": False},
            "bce": {"train.loss": "bce"},
            "narrower": half | {"decoder.widths": (128, 96, 64, 32)},
            "narrow": half | {"decoder.widths": (64, 48, 32, 16)},
            "full_resolution": {
                "decoder.scales": (8, 4, 2, 1),
                "decoder.widths": (256, 128, 64, 32, 16),
            },
            "size_224": {"data.image_size": 224},
            "size_112_narrow": half | {"data.image_size": 112, "decoder.widths": (64, 48, 32, 24)},
            "batch_4": {"train.batch_size": 4},
            "faster_learning": {"train.learning_rate": 2e-3},
        },
    }
