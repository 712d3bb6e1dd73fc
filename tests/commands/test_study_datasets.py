"""configs/ablations/datasets.py: two families of phantoms, each model tested on both."""

import csv
import functools
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from configs.ablations.datasets import named
from lagseg_jax import study
from lagseg_jax.data.phantom import write_dataset
from lagseg_jax.evaluation.study import run_study
from lagseg_jax.reports.cross_table import cross_rows
from lagseg_jax.reports.study_table import Result
from lagseg_jax.runtime.console import exit_status

ROOT = Path(study.__file__).parent.parent


def dice_of(folder):
    with (folder / "per_case.csv").open() as file:
        return {row["case"]: float(row["dice"]) for row in csv.DictReader(file)}


def test_a_study_over_two_families(tmp_path, phantom, monkeypatch):
    sizes = {"shape": (43, 41, 13), "spacing": (2.5, 2.5, 5.0)}
    ct = write_dataset(tmp_path / "ct" / "data", cases=6, seed=1, family="ct", **sizes)
    monkeypatch.chdir(ROOT)
    started = []

    def start(job, stopped):  # in this process, which has compiled all of it
        started.append(job.name)
        main = importlib.import_module(job.module).main
        return exit_status(lambda: main(list(job.arguments))), ""

    monkeypatch.setattr(study, "run_study", functools.partial(run_study, start=start))
    workdir = tmp_path / "study"
    line = [
        "--study=configs/ablations/datasets.py",
        f"--config=tests/helpers/tiny_run.py:{phantom}",
        f"--workdir={workdir}",
        f"--config.data.root=('lge={phantom}','ct={ct}')",
        "--config.train.steps=2",
    ]
    assert exit_status(lambda: study.main(line)) == 0
    assert started == ["lge seed0", "ct seed0", "lge seed0 on ct", "ct seed0 on lge"]

    runs = {name: workdir / name / "seed0" for name in ("lge", "ct")}
    dice = {
        ("lge", "ct"): dice_of(runs["lge"] / "evaluations" / "ct"),
        ("ct", "lge"): dice_of(runs["ct"] / "evaluations" / "lge"),
        **{(name, name): dice_of(run / "evaluation") for name, run in runs.items()},
    }
    for (_, tested), scores in dice.items():
        split = json.loads((runs[tested] / "splits.json").read_text())
        assert list(scores) == split["test"]
    text = (workdir / "table.md").read_text()
    assert "| trained on, tested on | lge | ct |" in text
    means = {cell: f"{np.mean(list(scores.values())):.4f}" for cell, scores in dice.items()}
    (row,) = [line for line in text.splitlines() if line.startswith("| lge | ")]
    first, second = (cell.split(" ±")[0] for cell in row.split(" | ")[1:])
    assert [first, second] == [means["lge", "lge"], means["lge", "ct"]]
    record = json.loads((workdir / "study.json").read_text())
    rows = {row["arm"]: row for row in record["rows"] if row["metric"] == "dice"}
    difference = float(means["lge", "ct"]) - float(means["ct", "ct"])
    assert rows["lge on ct"]["difference"] == pytest.approx(difference, abs=2e-4)
    assert rows["lge on ct"]["n_pairs"] == 2 and "difference" not in rows["ct on ct"]
    assert [run["state"] for run in record["runs"]] == ["finished"] * 4

    started.clear()
    assert exit_status(lambda: study.main(line)) == 0 and started == []


def test_models_are_compared_on_the_cases_of_a_column():
    def result(arm, cases):
        scores = {
            name: dict.fromkeys(("dice", "iou", "hd95_mm", "assd_mm"), v) for name, v in cases
        }
        return Result(arm, -1, 0, scores, 3, "")

    results = [
        result("a on a", [("x", 0.9), ("y", 0.8)]),
        result("b on a", [("x", 0.5), ("y", 0.6)]),
        result("b on b", [("x", 0.7)]),  # another case x, of another dataset
        result("a on b", [("x", 0.3)]),
    ]
    rows = {r["arm"]: r for r in cross_rows(results, ["a", "b"]) if r["metric"] == "dice"}
    assert rows["b on a"]["difference"] == pytest.approx(-0.3)
    assert rows["a on b"]["difference"] == pytest.approx(-0.4)
    # A column without the model that was trained there has nothing to compare with.
    rows = cross_rows([r for r in results if r.arm != "b on b"], ["a", "b"])
    assert "difference" not in next(r for r in rows if r["arm"] == "a on b")


def test_datasets_are_called_by_their_folders():
    assert named(("lge=/data/x", "/data/CT scans/")) == {
        "lge": "/data/x",
        "CT_scans": "/data/CT scans/",
    }
    assert named(("somewhere",)) == {"somewhere": "somewhere"}
