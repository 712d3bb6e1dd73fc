r"""Trains every arm, fold and seed of a study, and writes one table and one plot.

    python -m lagseg_jax.study --study=configs/ablations/blocks.py --config=configs/base.py \
        --workdir=runs/blocks --seeds=3 --config.data.root=DATASET

A study file names its arms as changes of the base config; its `get_study(config)` returns

    title      of the table
    arms       {name: {"SECTION.FIELD": value}}
    reference  the arm that the others are compared with, or None
    curve      True for a plot against the number of training cases
    cross_test  True to judge every run on the test cases of the other arms' datasets, too

Every run is an ordinary one (`lagseg_jax.main`) in a process of its own, so that one that fails
leaves the others alone: WORKDIR/ARM/seed0, or WORKDIR/ARM/fold0/seed0 with --cross_validate. The
same command continues where it was interrupted, skips what is finished, and retries what failed.
WORKDIR gets report.html, table.md, table.csv, study.json and plot.svg, plot.png: after every run,
so that what is there can be read at any time.
"""

import functools
import itertools
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from lagseg_jax.config.flags import flags_help, parse_flags
from lagseg_jax.config.validate import check_config
from lagseg_jax.evaluation.cross_test import cross_tests
from lagseg_jax.evaluation.study import Run, check_unchanged, read_study, run_study
from lagseg_jax.reports.study_page import write_results
from lagseg_jax.runs.lock import locked
from lagseg_jax.runtime.console import exit_status, log_to_console
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.signals import handled


def define_flags(values: flags.FlagValues) -> None:
    """The flags of this command, apart from `config` and `workdir`."""
    flags.DEFINE_string("study", None, "Study file, e.g. configs/ablations/blocks.py.", values)
    flags.DEFINE_integer("seeds", 1, "Runs of every arm, from config.seed on.", 1, None, values)
    flags.DEFINE_list("arms", [], "Only these arms of the study; all by default.", values)
    about = "Every arm on the five folds of nnU-Net's seeded split; the cases are pooled."
    flags.DEFINE_boolean("cross_validate", False, about, values)


def plan_runs(values: flags.FlagValues, study: dict) -> list[Run]:
    """All runs of a study; one arm after the other, so that its table row is complete early.

    Raises:
        InputError: an arm has an impossible field, or its folder a run with another config.
    """
    base = config_flags.get_override_values(values["config"])
    path = config_flags.get_config_filename(values["config"])
    folds = range(5) if values.cross_validate else [values.config.data.fold]
    seeds = range(values.config.seed, values.config.seed + values.seeds)
    runs = []
    for (arm, changes), fold, seed in itertools.product(study["arms"].items(), folds, seeds):
        fields = base | changes | {"data.fold": fold, "seed": seed}
        folder = Path(values.workdir) / arm
        workdir = (folder / f"fold{fold}" if values.cross_validate else folder) / f"seed{seed}"
        options = (f"--config.{field}={value}" for field, value in fields.items())
        arguments = (f"--config={path}", f"--workdir={workdir}", *options)
        try:
            config = parse_flags(["main", *arguments], lambda _: None).config
            check_config(config)
        except InputError as error:
            raise InputError(f"{values.study}: arm {arm}: {error}") from None
        shown = fold if values.cross_validate else -1
        runs.append(Run(arm, shown, seed, workdir, arguments, config))
        check_unchanged(runs[-1])
    return runs


def main(arguments: list[str] | None = None) -> int:
    """Parses the flags and runs the study; returns the exit status."""
    arguments = sys.argv if arguments is None else ["study", *arguments]
    values = parse_flags(arguments, define_flags)
    if values.help:
        print(flags_help("study", __doc__, values))
        return 0
    if None in (values.study, values.config, values.workdir):
        raise InputError(
            "--study, --config and --workdir are needed, e.g. --study=configs/ablations/blocks.py"
        )
    log_to_console()
    study = read_study(values.study, values.config, values.arms)
    runs = plan_runs(values, study)
    with handled(True), locked(Path(values.workdir)):
        tests = cross_tests(runs) if study["cross_test"] else []
        publish = functools.partial(write_results, Path(values.workdir), study, runs, tests=tests)
        return run_study(Path(values.workdir), [*runs, *tests], publish)


if __name__ == "__main__":
    sys.exit(exit_status(main, continues=True))
