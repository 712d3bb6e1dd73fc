"""python -m benchmarks.accuracy: arms, seeds and cores, and what is kept of the runs."""

import os

import pytest

from benchmarks.accuracy import __main__ as accuracy
from benchmarks.accuracy.arms import Arm, arms_of, configure, core_slots, run_job
from benchmarks.accuracy.curve import _points, write_curve
from benchmarks.accuracy.interpreters import check_interpreters
from benchmarks.accuracy.record import Record
from benchmarks.common.worker import WorkerError
from lagseg_jax.reports.study_table import METRICS, Result
from lagseg_jax.runs.lock import locked
from lagseg_jax.runtime.errors import InputError


def test_the_record_goes_on_and_names_what_failed(phantom, tmp_path, monkeypatch, capsys):
    study = tmp_path / "study.py"
    study.write_text(
        "def get_study(config):\n"
        "    arms = {'a': {'train.loss': 'bce'}, 'b': {'train.loss': 'dice'}}\n"
        "    return {'title': 't', 'reference': 'a', 'arms': arms}\n"
    )
    calls, broken, told = [], {"b"}, {}

    def job(options, arms, arm, seed, cores, steps):
        calls.append((arm, seed))
        told[arm, seed] = steps
        if arm in broken:
            raise (WorkerError("train: the worker ended"), OSError(28, "No space left"))[seed]
        value = {"a": 0.8, "b": 0.9, "U-Net": 0.7}[arm] + seed / 100
        scores = {m: value for m in METRICS} | {"hd95_mm": float("nan")}  # of an empty mask
        facts = {"steps": 7, "seconds": 60.0, "parameters": 10**6, "volume_seconds": 2.0}
        facts |= {"warning": "", "versions": {}, "training_cases": 3}
        return facts | {"cases": {name: scores for name in ("p", "q")}}

    monkeypatch.setattr(accuracy, "run_job", job)
    monkeypatch.setattr(accuracy, "check_interpreters", lambda options, arms: None)
    arguments = [f"--data={phantom}", f"--workdir={tmp_path / 'w'}", "--counts=3,1,2"]
    arguments += [f"--config=tests/helpers/tiny_run.py:{phantom}", f"--study={study}"]
    assert accuracy.main(arguments) == 1
    table = capsys.readouterr().out
    assert "| b, seed 1" not in table and "Incomplete: 2 of 6" in table
    assert "No space left" in table and f"the worker ended (log: {tmp_path}/w/b/seed0/log)" in table
    assert set(calls) == {(a, s) for a in ("a", "b", "U-Net") for s in (0, 1)}
    assert (told["a", 0], told["a", 1], told["b", 1]) == (None, 7, None)  # measured once
    calls.clear()
    broken.clear()
    assert accuracy.main(arguments) == 0
    table = capsys.readouterr().out
    assert "0.9050" in table and "+0.2000" in table and "Incomplete" not in table
    assert calls == [("b", 0), ("b", 1)]  # only what was missing
    rows = [line for line in table.splitlines() if ", seed " in line]
    assert [row.split(" | ")[0] for row in rows] == [
        f"| {arm}, seed {seed}" for arm in ("a", "b", "U-Net") for seed in (0, 1)
    ]
    assert rows[0].startswith("| a, seed 0 | 0.800 | 7 |")
    for other in ("--minutes=20", "--peer_size=48"):
        with pytest.raises(InputError, match=r"runs\.json is of other options"):
            accuracy.main([*arguments, other])
    assert accuracy.main([*arguments, "--no_peer"]) == 0
    table = capsys.readouterr().out
    assert "Dice - a" in table and "+0.1000" in table and "U-Net" not in table.split("| run |")[0]


def test_what_cannot_be_trained_is_said_before_anything_is(phantom, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accuracy, "run_job", lambda *_: pytest.fail("trained"))
    arguments = [f"--data={phantom}", f"--workdir={tmp_path}", "--counts=3,1,2"]
    arguments += [f"--config=tests/helpers/tiny_run.py:{phantom}"]
    with pytest.raises(InputError, match=r"train_patients is 4, expected at most the 3"):
        accuracy.main([*arguments, "--train_patients=2,4"])
    for option in ("--train_patients=0", "--train_patients=2,x", "--nnunet=2d,3d"):
        with pytest.raises(SystemExit):
            accuracy.main([*arguments, option])
        assert f"{option.partition('=')[2]!r}, expected " in capsys.readouterr().err
    with locked(tmp_path), pytest.raises(InputError, match="is in use by"):
        accuracy.main(arguments)


@pytest.mark.parametrize(
    ("prints", "expected"),
    [
        ("version 1.7.1", r"nnunetv2 1\.7\.1, expected one with nnunetv2 2 "),
        ("absent 3.12.1", r"Python 3\.12\.1 without nnunetv2, expected an interpreter that has"),
        ("", r"which answered nothing \(broken\), expected"),
        (None, r"cannot be started \(No such file or directory\)"),
    ],
)
def test_an_interpreter_without_nnunet_is_named(options_for, tmp_path, prints, expected):
    python = tmp_path / "python"
    if prints is not None:
        python.write_text(f"#!/bin/sh\necho {prints}\necho broken >&2\n")
        python.chmod(0o755)
    options = options_for(tmp_path, f"--nnunet_python={python}")
    with pytest.raises(InputError, match=f"--nnunet_python is {python}.*{expected}"):
        check_interpreters(options, [Arm("ours", {}), Arm("nnU-Net", {}, "2d")])


def test_steps_are_measured_once_for_a_curve(options_for, tmp_path):
    options = options_for(tmp_path, "--train_patients=1,3")
    record = Record(options, arms_of(options, configure(options, {}))[0], None)
    record.runs = [{"arm": "tiny_run, 3 patients", "steps": 11}]
    assert record.steps("tiny_run, 1 patients") == record.steps("tiny_run, 3 patients") == 11
    assert record.steps("U-Net, 1 patients") is None


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
        for n in (5, 2)
    }

    def result(arm, seed, *dice):
        cases = {str(i): {"dice": value} for i, value in enumerate(dice)}
        return Result(arm, -1, seed, cases, 1, "")

    results = [result("a|b 2", 0, 0.5, 0.7), result("a|b 2", 1, 0.7, 0.9), result("c 5", 0, 0.4)]
    results.append(result("c 2", 0, 0.3))
    lines = write_curve(tmp_path, arms, results)
    assert lines[0] == "| Dice with so many training patients | 2 | 5 |"
    assert lines[2] == r"| a\|b | 0.700 ± 0.141 | - |"
    assert lines[3].startswith("| c | 0.300") and " | 0.400 ± " in lines[3]
    assert list(_points(arms, results)["c"]) == [2, 5]  # a line from left to right
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
