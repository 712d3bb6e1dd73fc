"""Trains a model and evaluates it: python -m lagseg_jax.main --config=... --workdir=...

The same workdir resumes, with the stored config where --config is left out. `--mode=evaluate`
judges the best checkpoint again, and makes the given `predict.*` those of the run.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections
from absl import flags

from lagseg_jax.config.flags import flags_help, parse_flags
from lagseg_jax.config.validate import check_batch_size, check_config
from lagseg_jax.data.cases import Case
from lagseg_jax.data.datasets import check_processes
from lagseg_jax.runs.lock import locked
from lagseg_jax.runs.undo import undone_if_refused
from lagseg_jax.runs.workdir import (
    check_continues,
    evaluation_config,
    has_checkpoints,
    read_config,
    record_predict,
    write_config,
)
from lagseg_jax.runtime.ahead import left
from lagseg_jax.runtime.console import exit_status, log_to_console
from lagseg_jax.runtime.errors import InputError, TrainingError
from lagseg_jax.runtime.files import check_writable
from lagseg_jax.runtime.host import tune
from lagseg_jax.runtime.processes import joined, once, process
from lagseg_jax.runtime.signals import end_with_parent, handled
from lagseg_jax.runtime.trace import stage

if TYPE_CHECKING:
    from lagseg_jax.inference.segmenter import Segmenter


def run(config: ml_collections.ConfigDict, workdir: Path, mode: str) -> dict:
    """Trains if asked to, evaluates the test split, and returns its summary.

    Nothing is left of a training that is refused: its config, encoder and data come first.
    """
    config = evaluation_config(workdir, config) if mode == "evaluate" else config
    check_config(config)
    check_continues(workdir, config)
    # Imported late: a mistake in the config is answered before jax is loaded.
    with stage("import"):
        import jax

        from lagseg_jax.data.run_split import load_split
        from lagseg_jax.inference.load_segmenter import restore_segmenter
        from lagseg_jax.model.frozen_encoder import load_frozen_encoder
        from lagseg_jax.runs.checkpoint import Checkpoints
        from lagseg_jax.runtime.devices import use_compilation_cache
        from lagseg_jax.training.init_from import check_init_from
        from lagseg_jax.training.loop import train
        from lagseg_jax.training.programs import begin_compiling

    check_processes(config, process()[1])
    _check_places(config, workdir, mode)
    use_compilation_cache()
    if mode == "evaluate":
        encoder = load_frozen_encoder(config)
        segmenter = restore_segmenter(config, workdir, encoder)
        summary = judge(segmenter, load_split(config, workdir), workdir)
        once(record_predict, workdir, config.predict)
        return summary
    check_batch_size(config.train.batch_size, jax.device_count())
    with locked(workdir), undone_if_refused(workdir):
        programs = begin_compiling(config)
        encoder = load_frozen_encoder(config)
        if has_checkpoints(workdir):
            with Checkpoints(workdir, encoder.sha256, read_only=True) as checkpoints:
                checkpoints.check_encoder()
        elif config.train.init_from:
            check_init_from(config, encoder)
        split = load_split(config, workdir)
        if not has_checkpoints(workdir):  # else `train` does, once it has accepted all files
            once(write_config, workdir, config)
        unsaved = train(config, workdir, split, encoder, programs)
        summary = judge(restore_segmenter(config, workdir, encoder), split, workdir)
    if unsaved:
        raise TrainingError(
            f"the checkpoints of steps {', '.join(map(str, unsaved))} could not be saved (see "
            f"above); the newest one in {workdir / 'checkpoints'} is whole"
        )
    return summary


def _check_places(config: ml_collections.ConfigDict, workdir: Path, mode: str) -> None:
    """Raises InputError for a workdir or cache that cannot be written to, before the work."""
    from lagseg_jax.data.prepare import cache_folder

    check_writable(workdir, "a --workdir that can")
    if mode == "train":
        folder = cache_folder(config.data.cache_dir)
        check_writable(folder, "a folder for the cache that can: config.data.cache_dir")


def judge(segmenter: "Segmenter", split: Mapping[str, Sequence[Case]], workdir: Path) -> dict:
    """Evaluates the test cases into the workdir, says what came out, and returns the summary."""
    from lagseg_jax.evaluation.evaluate import evaluate, summary_line
    from lagseg_jax.evaluation.uncertainty import with_estimator
    from lagseg_jax.reports.page import write_report
    from lagseg_jax.reports.review import write_evaluation_review
    from lagseg_jax.reports.review_case import write_case_page
    from lagseg_jax.runtime.console import log

    folder = workdir / "evaluation"
    with locked(folder):
        segmenter = with_estimator(segmenter, split["validation"], workdir)
        summary = evaluate(segmenter, split["test"], folder, case_page=write_case_page)
        once(write_evaluation_review, folder)
        once(write_report, folder)
    random = " (random encoder)" if segmenter.encoder.warning else ""
    log.info("test%s: %s", random, summary_line(summary))
    metrics = (folder / "summary.json", folder / "per_case.csv", workdir / "metrics.jsonl")
    for what, place in (
        ("report", folder / "report.html"),
        ("every slice", folder / "review.html"),
        ("metrics", ", ".join(map(str, metrics))),
        ("overlay pictures", folder / "overlays"),
        ("predicted masks", folder / "masks"),
        ("checkpoints", f"{workdir / 'checkpoints'} (best: step {segmenter.step})"),
    ):
        log.info("  %-17s %s", what, place)
    return summary


def define_flags(values: flags.FlagValues) -> None:
    """The flags of this command, apart from `config` and `workdir`."""
    modes = ["train", "evaluate"]
    flags.DEFINE_enum("mode", "train", modes, "train (then evaluate), or only evaluate.", values)
    several: dict[str, Any] = {
        "flag_values": values,
        "module_name": "several processes, where they are not detected (launch/README.md)",
    }
    flags.DEFINE_string("coordinator_address", None, "Host:port of the first.", **several)
    flags.DEFINE_integer("num_processes", None, "How many there are.", **several)
    flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.", **several)


def main(arguments: list[str] | None = None) -> int:
    """Parses the flags and runs; returns the exit status."""
    arguments = sys.argv if arguments is None else ["main", *arguments]
    values = parse_flags(arguments, define_flags, stored=read_config)
    if values.help:
        print(flags_help("main", __doc__, values))
        return 0
    if values.config is None or values.workdir is None:
        raise InputError(
            "--config and --workdir are needed, e.g. --config=configs/base.py --workdir=runs/base; "
            "a workdir that holds a run needs no --config"
        )
    log_to_console()
    end_with_parent()
    if values.mode == "train":
        tune()
    workdir, config = Path(values.workdir), values.config
    if values.mode == "evaluate":
        config = evaluation_config(workdir, config)
    # Before the others are waited for; `run` does it again for those that are detected.
    check_config(config)
    check_processes(config, values.num_processes or 1)
    # Signals after jax.distributed, which has a handler of its own.
    with joined(values.coordinator_address, values.num_processes, values.process_id), handled(True):
        run(config, workdir, values.mode)
    return 0


if __name__ == "__main__":
    sys.exit(left(exit_status(main, continues=True)))
