"""For a laptop: no GPU, no converted weights; tiny random encoder, learned image pyramid.

    python -m lagseg_jax.main --config=configs/cpu.py --workdir=runs/cpu --config.data.root=DATASET

What differs from the paper's recipe is named: `encoder.variant`, `decoder.image_path`, the finest
decoder scale, the loss, and the size of images, decoder and batch.

Measured (jax 0.10.2, 2 CPU cores that did other work as well): 24 volumes of the 2018 Atrial
Segmentation Challenge (cropped around the atrium, so easier than a clinical field of view), 16 to
train, 4 to validate, 4 to test. 2112 steps in 37 minutes; 0.7 s per step with both cores free. Mean
over the 4 test volumes (SD): 3D Dice 0.864 (0.097), IoU 0.769 (0.140), HD95 10.8 (11.6) mm, ASSD
2.2 (2.3) mm, with the volumes' stated voxel size of 0.625 mm. Since then the step has become
faster (jax 0.12.0.1, 2 other cores, free: 0.35 s): with `--config.train.steps=600
--config.train.evaluate_every=150` 4.6 minutes in all, 3D Dice 0.847 (0.087), HD95 11.9 (9.9) mm.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The default recipe, made small."""
    config = default.get_config()
    config.data.image_size = 196
    config.data.fractions = (4 / 6, 1 / 6, 1 / 6)
    config.encoder.variant = "tiny"
    config.encoder.dtype = "float32"
    config.decoder.image_path = "pyramid"
    config.decoder.scales = (8, 4, 2)
    config.decoder.widths = (128, 96, 64, 32)
    config.decoder.dtype = "auto"
    config.augment.gamma = 0.7
    config.augment.contrast = 0.5
    config.train.epochs = 12.0
    config.train.batch_size = 8
    config.train.loss = "bce+dice"
    return config
