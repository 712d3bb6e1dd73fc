"""Stages: whose time is counted where, and what is told at the end of a command."""

import json
import threading
from collections import defaultdict

import pytest

from lagseg_jax.runtime import trace
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.trace import stage


@pytest.fixture
def clock(monkeypatch):
    """A clock that each step of a test moves by hand; nothing has been counted yet."""
    now = [1000.0]
    monkeypatch.setattr(trace.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(trace, "_thread", threading.local())
    monkeypatch.setattr(trace, "_seconds", defaultdict(float))
    monkeypatch.setattr(trace, "_calls", defaultdict(int))
    return now


def command(clock):
    """2 s of nothing named, reading of 3 s with 5 s of weights in it, twice; 7 s in a thread."""
    for _ in range(2):
        clock[0] += 1
        with stage("reading"):
            clock[0] += 1
            with stage("weights"):
                clock[0] += 5
            clock[0] += 2

    @stage("writing")
    def write():
        clock[0] += 7

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()


@pytest.fixture
def seconds(clock, monkeypatch, tmp_path):
    """{stage: (seconds, times)} of a file, and all seconds in it."""
    monkeypatch.setenv(trace.VARIABLE, str(tmp_path / "trace.json"))
    assert exit_status(lambda: command(clock)) == 0
    told = json.loads((tmp_path / "trace.json").read_text())
    return {row["stage"]: (row["seconds"], row["times"]) for row in told["stages"]}, told["seconds"]


def test_each_second_is_counted_once(seconds):
    stages, total = seconds
    began = stages.pop("import", (0, 0))[0]
    assert stages == {
        "weights": (10, 2),
        "reading": (6, 2),
        "writing (beside)": (7, 1),
        "other": (2 + 7, 1),  # the main thread waited for the other one
    }
    assert total == pytest.approx(began + 10 + 6 + 9)


def test_what_jax_compiles_is_a_stage_of_its_own(clock, monkeypatch, tmp_path):
    jax = pytest.importorskip("jax")
    monkeypatch.setenv(trace.VARIABLE, str(tmp_path / "trace.json"))

    def compiles():
        trace.count_compilations()
        with stage("first volume"):
            clock[0] += 9
            trace.count_compilations()  # again, which changes nothing
            jax.monitoring.record_event_duration_secs(
                "/jax/core/compile/backend_compile_duration", 4.0
            )

    assert exit_status(compiles) == 0
    told = json.loads((tmp_path / "trace.json").read_text())
    stages = {row["stage"]: row["seconds"] for row in told["stages"]}
    assert (stages["first volume"], stages["compilation"]) == (5, 4)


def test_a_table_on_standard_error_or_nothing(clock, monkeypatch, capsys):
    exit_status(lambda: command(clock))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv(trace.VARIABLE, "1")
    exit_status(lambda: command(clock))
    out, err = capsys.readouterr()
    assert out == ""
    assert "   10.000 s       2 x  weights\n" in err


def test_a_folder_that_is_not_there_is_said_before_the_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(trace.VARIABLE, str(tmp_path / "none" / "trace.json"))
    done = []
    assert exit_status(lambda: done.append(1)) == 2 and not done
    assert str(tmp_path / "none") in capsys.readouterr().err
    monkeypatch.delenv(trace.VARIABLE)
    assert exit_status(lambda: 0) == 0


@pytest.mark.parametrize("status", [0, 1])
def test_a_file_that_cannot_be_written_changes_no_status(monkeypatch, tmp_path, capsys, status):
    monkeypatch.setenv(trace.VARIABLE, str(tmp_path))  # a folder
    assert exit_status(lambda: status) == status
    assert f"error: {tmp_path} cannot be written" in capsys.readouterr().err
