"""command line -> a trained and evaluated run: python -m lagseg_jax.main --config=... --workdir=...

The same workdir resumes. `--mode=evaluate` judges the best checkpoint again.
"""

import sys
from pathlib import Path

from absl import flags

from lagseg_jax.config.flags import parse_flags
from lagseg_jax.config.validate import check_batch_size, check_config
from lagseg_jax.data.layouts import check_processes
from lagseg_jax.runs.workdir import read_config, write_config
from lagseg_jax.runtime.console import exit_status, log_to_console
from lagseg_jax.runtime.errors import InputError, TrainingError
from lagseg_jax.runtime.host import tune
from lagseg_jax.runtime.processes import joined, once, process
from lagseg_jax.runtime.signals import handled


def run(config, workdir: Path, mode: str) -> dict:
    """Trains if asked to, evaluates the test split, and returns its summary."""
    if mode == "evaluate":
        read_config(workdir)  # says so when there is no run
    check_config(config)
    # Imported late: a mistake in the config is answered before jax is loaded.
    import jax

    from lagseg_jax.data.split import load_split
    from lagseg_jax.evaluation.evaluate import describe, evaluate
    from lagseg_jax.inference.segmenter import restore_segmenter
    from lagseg_jax.model.frozen_encoder import load_frozen_encoder
    from lagseg_jax.reports.page import write_report
    from lagseg_jax.runtime.console import log
    from lagseg_jax.runtime.devices import use_compilation_cache
    from lagseg_jax.training.loop import train

    check_processes(config, process()[1])
    use_compilation_cache()
    if mode == "train":
        check_batch_size("config.train.batch_size", config.train.batch_size, jax.device_count())
    once(write_config, workdir, config)
    split = load_split(config, workdir)
    encoder = load_frozen_encoder(config)
    unsaved = train(config, workdir, split, encoder) if mode == "train" else []
    segmenter = restore_segmenter(config, workdir, encoder)
    folder = workdir / "evaluation"
    summary = evaluate(segmenter, split["test"], folder, config.data.label_value or None)
    once(write_report, folder)
    log.info("test: %s", describe(summary))
    if encoder.warning:
        log.warning("WARNING: %s", encoder.warning)
    for what, path in (
        ("report", "evaluation/report.html"),
        ("metrics", "evaluation/summary.json, evaluation/per_case.csv, metrics.jsonl"),
        ("overlay pictures", "evaluation/overlays/"),
        ("predicted masks", "evaluation/masks/"),
        ("checkpoints", f"checkpoints/ (best: step {segmenter.step})"),
    ):
        log.info("  %-17s %s", what, workdir / path)
    if unsaved:
        raise TrainingError(
            f"the checkpoints of steps {', '.join(map(str, unsaved))} could not be saved (see "
            f"above); the newest one in {workdir / 'checkpoints'} is whole"
        )
    return summary


def define_flags(values: flags.FlagValues) -> None:
    """The flags of this command, apart from `config` and `workdir`."""
    modes = ["train", "evaluate"]
    flags.DEFINE_enum("mode", "train", modes, "train (then evaluate), or only evaluate.", values)
    several = "Of several processes, where it is not detected (see launch/README.md): "
    flags.DEFINE_string("coordinator_address", None, several + "host:port of the first.", values)
    for name, meaning in (("num_processes", "how many"), ("process_id", "which this is, from 0")):
        flags.DEFINE_integer(name, None, f"{several}{meaning}.", flag_values=values)


def main(arguments: list[str] | None = None) -> int:
    """Parses the flags and runs; returns the exit status."""
    values = parse_flags(sys.argv if arguments is None else ["main", *arguments], define_flags)
    if values.help:
        print(f"{__doc__}\n{values.main_module_help() or values.get_help()}")
        return 0
    if values.config is None or values.workdir is None:
        raise InputError("--config and --workdir are needed, e.g. --config=configs/base.py")
    log_to_console()
    if values.mode == "train":
        tune()
    # Before the others are waited for; `run` does it again for those that are detected.
    check_config(values.config)
    check_processes(values.config, values.num_processes or 1)
    # Signals after jax.distributed, which has a handler of its own.
    with joined(values.coordinator_address, values.num_processes, values.process_id), handled():
        run(values.config, Path(values.workdir), values.mode)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
