"""Tables, plots and page of a study, from what its finished runs have left."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from lagseg_jax.evaluation.cross_test import CrossTest
from lagseg_jax.evaluation.study import Job, Run
from lagseg_jax.reports.cross_table import OWN, column, cross_lines, cross_rows, read_cross_results
from lagseg_jax.reports.study_plot import write_plot
from lagseg_jax.reports.study_report import write_study_page
from lagseg_jax.reports.study_table import read_result, table_rows, write_table


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
        reasons: why runs or tests failed, by their names.
        tests: of the runs on other datasets, if the study has them.
    """
    arms = list(study["arms"])
    above: list[str] = []
    groups: dict[str, list[str]] = {"": arms}
    if study.get("cross_test"):
        results = read_cross_results(runs, tests)
        rows = cross_rows(results, arms)
        groups = {f"Tested on {name}": column(name, arms) for name in arms}
        study, above = {**study, "reference": OWN}, cross_lines(rows, arms)
    else:
        results = [read_result(r.workdir, r.arm, r.fold, r.seed) for r in runs if r.finished]
        rows = table_rows(results, arms, study["reference"])
    study = study | {"split": "; ".join(sorted({r.split for r in results if r.split}))}
    jobs: list[Job] = [*runs, *tests]
    record = [_state(job, reasons) for job in jobs]
    text = write_table(workdir, study, rows, record, results, above)
    if results:
        write_plot(workdir, study, rows, results)
    write_study_page(workdir, study, rows, record, results, groups)
    return text


def _state(job: Job, reasons: dict[str, str]) -> dict[str, str]:
    state = "finished" if job.finished else "failed" if job.name in reasons else "missing"
    command = shlex.join(["python", "-m", job.module, *job.arguments])
    reason = reasons.get(job.name, "")
    return {"run": job.name, "state": state, "reason": reason, "command": command}
