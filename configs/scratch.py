"""For one GPU, without converted weights: `configs/cpu.py` with more pixels and a larger batch.

    python -m lagseg_jax.main --config=configs/scratch.py --workdir=runs/scratch \
        --config.data.root=DATASET

The tiny random encoder and the learned image pyramid cost so little that a GPU is not busy with
slices of 196 pixels: at 448 a slice is 38 GFLOP with gradients, and a batch of 16 needs 1.4 GB
(`python -m benchmarks.recipe_cost --config=configs/scratch.py`). Whole slices of 640 pixels need
that size: at 196 pixels a perfect mask has a Dice of 0.976, at 448 of 0.991. Of slices cropped to
200 pixels, `--config.data.image_size=224` loses nothing.

This config has not run on a GPU: hardware, time and result are not measured. At 112 pixels, with
the decoder's widths (64, 48, 32, 24) and batches of 8, 1000 steps on a CPU reached Dice 0.850 on 8
test volumes cropped so (three seeds), 1500 steps 0.869 (one). Nothing that was tried there, one
change at a time, paid beyond the noise; what came nearest is weaker grey augmentation
(`--config.augment.gamma=0.3 --config.augment.contrast=0`), 0.863 after 1000 steps:
docs/log/2026-11-28-scratch.md. `configs/ablations/scratch.py` has the arms to decide the rest.
"""

import ml_collections

from configs import cpu


def get_config() -> ml_collections.ConfigDict:
    """The recipe for laptops with more pixels, a larger batch and bfloat16."""
    config = cpu.get_config()
    config.data.image_size = 448
    config.encoder.dtype = "bfloat16"
    config.decoder.dtype = "bfloat16"
    config.train.epochs = 50.0
    config.train.batch_size = 16
    return config
