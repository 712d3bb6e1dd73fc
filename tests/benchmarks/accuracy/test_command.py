"""python -m benchmarks.accuracy: arms, seeds and cores, and what is kept of the runs."""

import os

import pytest

from benchmarks.accuracy import __main__ as accuracy
from benchmarks.accuracy.arms import core_slots
from benchmarks.common.worker import WorkerError
from lagseg_jax.reports.study_table import METRICS
from lagseg_jax.runtime.errors import InputError


def test_the_record_goes_on_and_names_what_failed(phantom, tmp_path, monkeypatch, capsys):
    study = tmp_path / "study.py"
    study.write_text(
        "def get_study(config):\n"
        "    arms = {'a': {'train.loss': 'bce'}, 'b': {'train.loss': 'dice'}}\n"
        "    return {'title': 't', 'reference': 'a', 'arms': arms}\n"
    )
    calls, broken = [], {"b"}

    def job(options, arms, split, arm, seed, cores):
        calls.append((arm, seed))
        if arm in broken:
            raise WorkerError("train: the worker ended")
        value = {"a": 0.8, "b": 0.9, "U-Net": 0.7}[arm] + seed / 100
        scores = {m: value for m in METRICS} | {"hd95_mm": float("nan")}  # of an empty mask
        facts = {"steps": 7, "seconds": 60.0, "parameters": 10**6, "volume_seconds": 2.0}
        names = [case.name for case in split["test"]]
        return facts | {"warning": "", "versions": {}, "cases": {n: scores for n in names}}

    monkeypatch.setattr(accuracy, "run_job", job)
    arguments = [f"--data={phantom}", f"--workdir={tmp_path / 'w'}", "--counts=3,1,2"]
    arguments += [f"--config=tests/helpers/tiny_run.py:{phantom}", f"--study={study}"]
    assert accuracy.main(arguments) == 1
    table = capsys.readouterr().out
    assert "| b, seed 1" not in table and "Incomplete: 2 of 6" in table
    assert set(calls) == {(a, s) for a in ("a", "b", "U-Net") for s in (0, 1)}
    calls.clear()
    broken.clear()
    assert accuracy.main(arguments) == 0
    table = capsys.readouterr().out
    assert "0.9050" in table and "+0.2000" in table and "Incomplete" not in table
    assert calls == [("b", 0), ("b", 1)]  # only what was missing
    with pytest.raises(InputError, match=r"runs\.json is of other options"):
        accuracy.main([*arguments, "--minutes=20"])
    assert accuracy.main([*arguments, "--no_peer"]) == 0
    table = capsys.readouterr().out
    assert "Dice - a" in table and "+0.1000" in table and "U-Net" not in table.split("| run |")[0]


def test_cores_are_divided_equally(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6, 9})
    assert core_slots(1) == [[3, 5, 6, 9]]
    assert core_slots(2) == [[3, 5], [6, 9]]
    with pytest.raises(SystemExit, match="expected 1 to 4"):
        core_slots(5)


def test_the_cpu_clock_needs_one_core_per_arm(phantom, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    options = [f"--data={phantom}", f"--workdir={tmp_path}", "--counts=3,1,2", "--clock=cpu"]
    with pytest.raises(SystemExit, match="side_by_side"):
        accuracy.main([*options, f"--config=tests/helpers/tiny_run.py:{phantom}"])
