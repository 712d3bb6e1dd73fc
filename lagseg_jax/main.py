"""command line -> a trained and evaluated run: python -m lagseg_jax.main --config=... --workdir=...

The same workdir resumes. `--mode=evaluate` judges the best checkpoint again.
"""

import difflib
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from lagseg_jax.errors import InputError
from lagseg_jax.logs import exit_status, log_to_console


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


def parse_flags(arguments: list[str]) -> flags.FlagValues:
    """The command line, with `config`, `workdir` and `mode`.

    Raises:
        InputError: an unknown flag or field (with the nearest name), or a value of a wrong type.
    """
    plain = [a for a in arguments if not a.startswith("--config.")]
    try:
        values = _flags(plain)
        if values.config is not None:
            _check_fields(arguments, values.config.to_dict())
            values = _flags(arguments)
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError) as error:
        raise InputError(str(error)) from None
    return values


def _flags(arguments: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    about = (
        "Experiment config, e.g. configs/giant.py; --config.SECTION.FIELD=VALUE changes a field."
    )
    config_flags.DEFINE_config_file(
        "config", None, about, values, lock_config=True, sys_argv=arguments
    )
    flags.DEFINE_string("workdir", None, "Folder of the run; the same one resumes.", values)
    modes = ["train", "evaluate"]
    flags.DEFINE_enum("mode", "train", modes, "train (then evaluate), or only evaluate.", values)
    flags.DEFINE_boolean("help", False, "Print this.", values, short_name="h")
    rest = values(arguments)[1:]
    if rest:
        raise InputError(f"{rest[0]!r} is not a flag, expected --config, --workdir and others")
    return values


def _check_fields(arguments: list[str], config: dict) -> None:
    """Raises InputError for a `--config.x` that the config does not have."""
    known = [
        f"config.{section}.{name}" if isinstance(content, dict) else f"config.{section}"
        for section, content in config.items()
        for name in (content if isinstance(content, dict) else [section])
    ]
    for argument in arguments:
        field = argument.removeprefix("--").split("=")[0]
        if argument.startswith("--config.") and field not in known:
            nearest = difflib.get_close_matches(field, known, n=1, cutoff=0)[0]
            raise InputError(f"{field} is not a field of the config, did you mean {nearest}?")


def main(arguments: list[str] | None = None) -> int:
    """Parses the flags and runs; returns the exit status."""
    values = parse_flags(sys.argv if arguments is None else ["main", *arguments])
    if values.help:
        print(f"{__doc__}\n{values.main_module_help() or values.get_help()}")
        return 0
    if values.config is None or values.workdir is None:
        raise InputError("--config and --workdir are needed, e.g. --config=configs/base.py")
    log_to_console()
    run(values.config, Path(values.workdir), values.mode)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
