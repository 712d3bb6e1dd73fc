"""The whole way on 12 synthetic volumes, in minutes on two CPU cores: `make demo`.

    python -m lagseg_jax.main --config=configs/demo.py --workdir=runs/demo

DEMO_MEASURED
"""

import ml_collections

from configs import cpu


def get_config() -> ml_collections.ConfigDict:
    """The CPU recipe on phantoms, smaller still."""
    config = cpu.get_config()
    config.data.root = "phantom"
    config.data.image_size = 98
    config.train.epochs = 8.0
    return config
