"""The smallest run that goes through everything: six phantoms, 42-pixel slices, six steps."""

from pathlib import Path

import ml_collections

from configs import default
from lagseg_jax import main
from lagseg_jax.data.phantom import write_dataset

STEPS = 6


def write_phantom(root: Path) -> Path:
    """Six cases with sides of prime length and an anisotropic spacing."""
    return write_dataset(root / "data", cases=6, shape=(47, 43, 11), spacing=(2.5, 2.5, 5.0))


def config(root: Path, **train) -> ml_collections.ConfigDict:
    """A config that trains for `STEPS` steps on the phantoms at `root`."""
    config = default.get_config()
    config.data.root = str(root)
    config.data.image_size = 42
    config.data.fractions = (0.5, 1 / 6, 1 / 3)
    config.data.cache_dir = str(root.parent / "cache")
    config.encoder.variant = "tiny"
    config.encoder.dtype = config.decoder.dtype = "float32"
    config.decoder.scales, config.decoder.widths = (4, 2), (16, 16, 8)
    config.train.batch_size = 4
    config.train.epochs = STEPS / 8  # 33 slices are 8 batches of 4
    config.train.evaluate_every = config.train.checkpoint_every = 2
    config.train.log_every = 1
    config.predict.batch_size = 2
    config.train.update(train)
    return config


def get_config(root: str) -> ml_collections.ConfigDict:
    """The same for a command line: --config=tests/helpers/tiny_run.py:ROOT."""
    return config(Path(root))


def run(workdir: Path, root: Path, mode: str = "train", **train) -> dict:
    """Runs what the command line runs, in this process."""
    return main.run(config(root, **train), workdir, mode)
