"""command line -> a trained and evaluated run: python -m lagseg_jax.main --config=... --workdir=...

The same workdir resumes. `--mode=evaluate` judges the best checkpoint again.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from lagseg_jax.errors import InputError
from lagseg_jax.logs import exit_on_input_error, log_to_console

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment config, e.g. configs/giant.py.", lock_config=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same folder resumes.")
MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "evaluate"], "train (then evaluate), or only evaluate."
)


def run(config, workdir: Path, mode: str) -> dict:
    """Trains if asked to, evaluates the test split, and returns its summary."""
    # Imported late: a typo on the command line is answered before jax is loaded.
    from lagseg_jax.devices import use_compilation_cache
    from lagseg_jax.evaluate import describe, evaluate
    from lagseg_jax.experiment import check_config, load_split
    from lagseg_jax.frozen import load_frozen_encoder
    from lagseg_jax.logs import log
    from lagseg_jax.segmenter import restore_segmenter
    from lagseg_jax.train import train
    from lagseg_jax.workdir import read_config, write_config

    if mode == "evaluate":
        read_config(workdir)  # says so when there is no run
    check_config(config)
    use_compilation_cache()
    write_config(workdir, config)
    split = load_split(config, workdir)
    encoder = load_frozen_encoder(config)
    if mode == "train":
        train(config, workdir, split, encoder)
    segmenter = restore_segmenter(config, workdir, encoder)
    folder = workdir / "evaluation"
    summary = evaluate(segmenter, split["test"], folder, config.data.label_value or None)
    log.info("test: %s", describe(summary))
    if encoder.warning:
        log.warning("WARNING: %s", encoder.warning)
    for what, path in (
        ("metrics", "evaluation/summary.json, evaluation/per_case.csv, metrics.jsonl"),
        ("overlay pictures", "evaluation/overlays/"),
        ("predicted masks", "evaluation/masks/"),
        ("checkpoints", f"checkpoints/ (best: step {segmenter.step})"),
    ):
        log.info("  %-17s %s", what, workdir / path)
    return summary


def main() -> int:
    """Parses the flags and runs; bad input is one sentence and status 2."""
    try:
        flags.FLAGS(sys.argv)
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError) as error:
        raise InputError(str(error)) from None
    if CONFIG.value is None or WORKDIR.value is None:
        raise InputError("--config and --workdir are needed, e.g. --config=configs/base.py")
    log_to_console()
    run(CONFIG.value, Path(WORKDIR.value), MODE.value)
    return 0


if __name__ == "__main__":
    sys.exit(exit_on_input_error(main))
