"""Table and plot of a study, from what its finished runs have left."""

import shlex
from pathlib import Path

from lagseg_jax.data.patients import describe_patients
from lagseg_jax.evaluation.study import Run
from lagseg_jax.reports.study_plot import write_plot
from lagseg_jax.reports.study_table import read_result, table_rows, write_table


def write_results(workdir: Path, study: dict, runs: list[Run], reasons: dict[str, str]) -> str:
    """Writes tables and plot of the finished runs; returns the table as text."""
    results = [read_result(r.workdir, r.arm, r.fold, r.seed) for r in runs if r.finished]
    rules = sorted({describe_patients(run.config.data.patient) for run in runs})
    study = study | {"split": "; ".join(rules)}
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
