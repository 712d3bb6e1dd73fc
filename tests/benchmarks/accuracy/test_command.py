"""python -m benchmarks.accuracy: arms, seeds and cores, and what is kept of the runs."""

import os

import pytest

from benchmarks.accuracy import __main__ as accuracy
from benchmarks.accuracy.arms import Arm, arms_of, configure, core_slots, run_job
from benchmarks.accuracy.curve import write_curve
from benchmarks.common.worker import WorkerError
from lagseg_jax.reports.study_table import METRICS, Result
from lagseg_jax.runtime.errors import InputError


def test_the_record_goes_on_and_names_what_failed(phantom, tmp_path, monkeypatch, capsys):
    study = tmp_path / "study.py"
    study.write_text(
        "def get_study(config):\n"
        "    arms = {'a': {'train.loss': 'bce'}, 'b': {'train.loss': 'dice'}}\n"
        "    return {'title': 't', 'reference': 'a', 'arms': arms}\n"
    )
    calls, broken = [], {"b"}

    def job(options, arms, arm, seed, cores):
        calls.append((arm, seed))
        if arm in broken:
            raise WorkerError("train: the worker ended")
        value = {"a": 0.8, "b": 0.9, "U-Net": 0.7}[arm] + seed / 100
        scores = {m: value for m in METRICS} | {"hd95_mm": float("nan")}  # of an empty mask
        facts = {"steps": 7, "seconds": 60.0, "parameters": 10**6, "volume_seconds": 2.0}
        facts |= {"warning": "", "versions": {}, "training_cases": 3}
        return facts | {"cases": {name: scores for name in ("p", "q")}}

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


def test_every_method_gets_every_number_of_patients(options_for, tmp_path):
    more = ["--train_patients=1,3", "--nnunet_python=python"]
    options = options_for(tmp_path, *more)
    arms, reference = arms_of(options, configure(options, {}))
    series = ["tiny_run", "U-Net", "nnU-Net 2d", "nnU-Net 3d_fullres"]
    assert list(arms) == [f"{s}, {n} patients" for n in (1, 3) for s in series]
    assert reference is None and {arm.changes["data.train_patients"] for arm in arms.values()} == {
        1,
        3,
    }
    arms, reference = arms_of(options_for(tmp_path, more[1]), configure(options, {}))
    assert list(arms) == series and reference == "nnU-Net 2d"


def test_the_curve_has_a_point_for_what_is_there(tmp_path):
    """By hand: two cases, two seeds; an arm without a result is a dash."""
    arms = {
        f"{series} {n}": Arm("", {"data.train_patients": n}, series=series)
        for series in ("a|b", "c")
        for n in (2, 5)
    }

    def result(arm, seed, *dice):
        cases = {str(i): {"dice": value} for i, value in enumerate(dice)}
        return Result(arm, -1, seed, cases, 1, "")

    results = [result("a|b 2", 0, 0.5, 0.7), result("a|b 2", 1, 0.7, 0.9), result("c 5", 0, 0.4)]
    lines = write_curve(tmp_path, arms, results)
    assert lines[0] == "| Dice with so many training patients | 2 | 5 |"
    assert lines[2] == r"| a\|b | 0.700 ± 0.141 | - |"
    assert lines[3].startswith("| c | - | 0.400")
    assert (tmp_path / "curve.svg").exists() and (tmp_path / "curve.png").exists()
    assert write_curve(tmp_path, {"a": Arm("", {})}, results) == []


def test_half_of_a_training_is_removed_before_it_begins_anew(options_for, tmp_path, monkeypatch):
    options, seen = options_for(tmp_path), []
    left = tmp_path / "a" / "seed0" / "left"
    left.parent.mkdir(parents=True)
    left.touch()
    monkeypatch.setattr(
        "benchmarks.accuracy.arms._train_unet",
        lambda options, arm, seed, folder, cores: seen.append((seed, list(folder.iterdir()))),
    )
    run_job(options, {"a": Arm("U-Net", {})}, "a", 0, [0])
    assert seen == [(0, [])]
