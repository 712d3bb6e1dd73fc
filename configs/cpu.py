"""For a laptop without GPU and without converted weights: tiny random encoder, learned pyramid."""

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
    config.decoder.dtype = "float32"
    config.train.epochs = 12.0
    config.train.batch_size = 8
    config.train.loss = "bce+dice"
    return config
