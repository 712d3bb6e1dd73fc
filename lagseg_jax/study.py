r"""study file + base config -> a run for every arm, fold and seed, one table and one plot.

    python -m lagseg_jax.study --study=configs/ablations/blocks.py --config=configs/base.py \
        --workdir=runs/blocks --seeds=3 --config.data.root=DATASET

A study file names its arms as changes of the base config; its `get_study(config)` returns

    title      of the table
    arms       {name: {"SECTION.FIELD": value}}
    reference  the arm that the others are compared with, or None
    curve      True for a plot against the number of training cases

Every run is an ordinary one (`lagseg_jax.main`) in a process of its own, so that one that fails
leaves the others alone: WORKDIR/ARM/seed0, or WORKDIR/ARM/fold0/seed0 with --cross_validate. The
same command continues where it was interrupted, skips what is finished, and retries what failed.
WORKDIR gets table.md, table.csv, study.json and plot.svg, plot.png: after every run, so that what
is there can be read at any time.
"""

import dataclasses
import importlib.util
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from lagseg_jax.command_line import parse_flags
from lagseg_jax.config_check import check_config
from lagseg_jax.errors import InputError
from lagseg_jax.interrupt import handled
from lagseg_jax.logs import exit_status, log, log_to_console
from lagseg_jax.study_plot import write_plot
from lagseg_jax.study_table import read_result, table_rows, write_table
from lagseg_jax.workdir import has_checkpoints, read_config

# Where and how fast, not what is computed: these may differ between the starts of a study.
MAY_CHANGE = {"data.root", "data.max_gb", "data.cache_dir", "data.cache_gb", "data.read_threads"}
MAY_CHANGE |= {"encoder.weights", "train.checkpoint_every", "train.log_every", "predict.batch_size"}
MAY_CHANGE |= {"train.cache_features", "train.feature_cache_gb"}
# "error: ..." of our own command lines, and the line of a traceback that says what happened.
ERROR = re.compile(r"error: |[\w.]*(Error|Exception)\b")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a study.

    Attributes:
        arm: its name in the study file.
        fold: of the cross-validation; -1 without one.
        seed: `config.seed`.
        workdir: of the run.
        arguments: of `lagseg_jax.main`.
        config: what they amount to.
    """

    arm: str
    fold: int
    seed: int
    workdir: Path
    arguments: tuple[str, ...]
    config: ml_collections.ConfigDict

    @property
    def name(self) -> str:
        """For messages: "ARM fold0 seed0"."""
        return f"{self.arm} fold{self.fold} seed{self.seed}".replace(" fold-1", "")

    @property
    def finished(self) -> bool:
        """Whether its evaluation is there."""
        files = ("per_case.csv", "summary.json")
        return all((self.workdir / "evaluation" / file).exists() for file in files)


def define_flags(values: flags.FlagValues) -> None:
    """The flags of this command, apart from `config` and `workdir`."""
    flags.DEFINE_string("study", None, "Study file, e.g. configs/ablations/blocks.py.", values)
    flags.DEFINE_integer("seeds", 1, "Runs of every arm, from config.seed on.", 1, None, values)
    flags.DEFINE_list("arms", [], "Only these arms of the study; all by default.", values)
    about = "Every arm on the five folds of nnU-Net's seeded split; the cases are pooled."
    flags.DEFINE_boolean("cross_validate", False, about, values)


def read_study(path: str, config: ml_collections.ConfigDict, only: list[str]) -> dict:
    """Loads a study file and checks what it returns.

    Args:
        path: a Python file with `get_study(config)`.
        config: the base config, with the changes of the command line.
        only: names of the arms to keep; empty keeps all.

    Raises:
        InputError: no such file, no such function, or arms that cannot be used.
    """
    spec = importlib.util.spec_from_file_location("study_file", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise InputError(f"--study={path} is not a file, expected one of configs/ablations/*.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_study"):
        raise InputError(f"{path} has no function get_study(config), expected a study file")
    study = {"curve": False} | module.get_study(config)
    unknown = [name for name in only if name not in study["arms"]]
    if unknown:
        raise InputError(
            f"--arms names {unknown[0]!r}, expected some of {', '.join(study['arms'])}"
        )
    study["arms"] = {n: a for n, a in study["arms"].items() if not only or n in only}
    if study["reference"] not in (None, *study["arms"]):
        raise InputError(
            f"{path}: the reference arm {study['reference']!r} is not among the arms "
            f"{', '.join(study['arms'])}, expected it to be there to compare with"
        )
    for name in study["arms"]:
        if not re.fullmatch(r"\w[\w.-]*", name):  # a folder is called like it
            raise InputError(f"{path}: arm {name!r} found, expected letters, digits, '_', '-', '.'")
    return study


def plan_runs(values: flags.FlagValues, study: dict) -> list[Run]:
    """All runs of a study; one arm after the other, so that its table row is complete early.

    Raises:
        InputError: an arm has an impossible field, or its folder a run with another config.
    """
    base = config_flags.get_override_values(values["config"])
    path = config_flags.get_config_filename(values["config"])
    folds = range(5) if values.cross_validate else [values.config.data.fold]
    runs = []
    for arm, changes in study["arms"].items():
        for fold in folds:
            for seed in range(values.config.seed, values.config.seed + values.seeds):
                fields = base | changes | {"data.fold": fold, "seed": seed}
                folder = Path(values.workdir) / arm
                workdir = (folder / f"fold{fold}" if len(folds) > 1 else folder) / f"seed{seed}"
                options = (f"--config.{field}={value}" for field, value in fields.items())
                arguments = (f"--config={path}", f"--workdir={workdir}", *options)
                try:
                    config = parse_flags(["main", *arguments], lambda _: None).config
                    check_config(config)
                except InputError as error:
                    raise InputError(f"{values.study}: arm {arm}: {error}") from None
                shown = fold if len(folds) > 1 else -1
                runs.append(Run(arm, shown, seed, workdir, arguments, config))
                check_unchanged(runs[-1])
    return runs


def check_unchanged(run: Run) -> None:
    """Raises InputError if the folder holds a run with another config: no table may mix them."""
    if not (run.finished or has_checkpoints(run.workdir)):
        return
    before, now = _fields(read_config(run.workdir)), _fields(run.config)
    for field in sorted((before.keys() & now.keys()) - MAY_CHANGE):
        if before[field] != now[field]:
            raise InputError(
                f"config.{field} is {now[field]!r}, but {run.workdir} was trained with "
                f"{before[field]!r}, expected the same value or another --workdir"
            )


def _fields(config: ml_collections.ConfigDict) -> dict[str, object]:
    flat: dict[str, object] = {}
    for section, content in config.to_dict().items():
        if isinstance(content, dict):
            flat |= {f"{section}.{name}": value for name, value in content.items()}
        else:
            flat[section] = content
    return flat


def start_run(run: Run, stopped: list[int]) -> tuple[int, str]:
    """Trains and evaluates in a process of its own, and waits for it.

    Args:
        run: what to do.
        stopped: gets the number of an INT or TERM signal that arrives meanwhile. The run gets it,
            too, so that it can save its state.

    Returns:
        Its exit status, and the last error (or else the last line) that it printed.
    """
    # In a process group of its own, the run gets every signal once: from here.
    process = subprocess.Popen(
        [sys.executable, "-m", "lagseg_jax.main", *run.arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )

    def forward(number, frame):
        stopped.append(number)
        process.send_signal(number)

    handlers = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM)}
    line = problem = ""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(f"[{run.name}] {line}", end="", file=sys.stderr, flush=True)
            if ERROR.match(line):
                problem = line
        return process.wait(), (problem or line).strip()
    finally:
        process.stdout.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run_study(
    workdir: Path,
    study: dict,
    runs: list[Run],
    start: Callable[[Run, list[int]], tuple[int, str]] = start_run,
) -> int:
    """Starts the runs that are not finished, one after the other; the results stand in `workdir`.

    Returns:
        0; 1 when a run has failed; the exit status of the run that was interrupted by a signal.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    stopped: list[int] = []
    status = 0
    for number, run in enumerate(runs, start=1):
        if run.finished:
            continue
        log.info("run %d of %d: %s (%s)", number, len(runs), run.name, run.workdir)
        status, last = start(run, stopped)
        if stopped:
            log.warning("interrupted: the same command continues")
            break
        if status:
            reasons[run.name] = f"exit status {status}: {last}"
            log.error("run %s failed, the others go on", run.name)
        write_results(workdir, study, runs, reasons)
    text = write_results(workdir, study, runs, reasons)
    log.info("%s\n%s", text, workdir / "table.md, table.csv, study.json, plot.svg, plot.png")
    return (status or 128 + stopped[0]) if stopped else int(bool(reasons))


def write_results(workdir: Path, study: dict, runs: list[Run], reasons: dict[str, str]) -> str:
    """Writes tables and plot of the finished runs; returns the table as text."""
    results = [read_result(r.workdir, r.arm, r.fold, r.seed) for r in runs if r.finished]
    rows = table_rows(results, list(study["arms"]), study["reference"])
    record = [
        {
            "run": run.name,
            "state": "finished" if run.finished else "failed" if run.name in reasons else "missing",
            "reason": reasons.get(run.name, ""),
            "command": shlex.join(["python", "-m", "lagseg_jax.main", *run.arguments]),
        }
        for run in runs
    ]
    text = write_table(workdir, study, rows, record, results)
    if results:
        write_plot(workdir, study, rows, results)
    return text


def main(arguments: list[str] | None = None) -> int:
    """Parses the flags and runs the study; returns the exit status."""
    arguments = sys.argv if arguments is None else ["study", *arguments]
    values = parse_flags(arguments, define_flags)
    if values.help:
        print(f"{__doc__}\n{values.main_module_help() or values.get_help()}")
        return 0
    if None in (values.study, values.config, values.workdir):
        raise InputError(
            "--study, --config and --workdir are needed, e.g. --study=configs/ablations/blocks.py"
        )
    log_to_console()
    study = read_study(values.study, values.config, values.arms)
    runs = plan_runs(values, study)
    with handled():
        return run_study(Path(values.workdir), study, runs)


if __name__ == "__main__":
    sys.exit(exit_status(main))
