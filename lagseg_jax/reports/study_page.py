"""Tables, plots and page of a study, from what its finished runs have left."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from lagseg_jax.evaluation.cross_test import CrossTest
from lagseg_jax.evaluation.study import Job, Run
from lagseg_jax.reports.cross_table import (
    OWN,
    column,
    cross_lines,
    cross_result,
    cross_rows,
    own_result,
)
from lagseg_jax.reports.study_plot import write_plot
from lagseg_jax.reports.study_report import write_study_page
from lagseg_jax.reports.study_table import Result, read_result, table_rows, write_table
from lagseg_jax.runtime.errors import InputError


def write_results(
    workdir: Path,
    study: dict,
    runs: Sequence[Run],
    reasons: dict[str, str],
    tests: Sequence[CrossTest] = (),
) -> str:
    """Writes tables, plots and page of what is finished; returns the table as text.

    Args:
        workdir: of the study.
        study: from `read_study`.
        runs: all of them.
        reasons: why runs or tests failed, by their names; gets those that cannot be read.
        tests: of the runs on other datasets, if the study has them.
    """
    arms = list(study["arms"])
    above: list[str] = []
    groups: dict[str, list[str]] = {"": arms}
    if study.get("cross_test"):
        results = _read(runs, own_result, reasons) + _read(tests, cross_result, reasons)
        rows = cross_rows(results, arms)
        groups = {f"Tested on {name}": column(name, arms) for name in arms}
        study, above = {**study, "reference": OWN}, cross_lines(rows, arms)
    else:
        results = _read(
            runs, lambda run: read_result(run.workdir, run.arm, run.fold, run.seed), reasons
        )
        rows = table_rows(results, arms, study["reference"])
    study = study | {"split": "; ".join(sorted({r.split for r in results if r.split}))}
    jobs: list[Job] = [*runs, *tests]
    record = [_state(job, reasons) for job in jobs]
    text = write_table(workdir, study, rows, record, results, above)
    if results:
        write_plot(workdir, study, rows, results)
    write_study_page(workdir, study, rows, record, results, groups)
    return text


Kind = TypeVar("Kind", bound=Job)


def _read(
    jobs: Sequence[Kind], read: Callable[[Kind], Result], reasons: dict[str, str]
) -> list[Result]:
    """The results of the finished ones; a damaged one costs no other."""
    results = []
    for job in jobs:
        try:
            results += [read(job)] if job.finished else []
        except InputError as error:
            reasons[job.name] = str(error)
    return results


def _state(job: Job, reasons: dict[str, str]) -> dict[str, str]:
    state = "failed" if job.name in reasons else "finished" if job.finished else "missing"
    command = shlex.join(["python", "-m", job.module, *job.arguments])
    reason = reasons.get(job.name, "")
    return {"run": job.name, "state": state, "reason": reason, "command": command}
