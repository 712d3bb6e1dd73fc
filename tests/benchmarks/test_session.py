"""bash benchmarks/gpu_session.sh: a part that hangs or fails leaves the others their time."""

import json
import shutil
import subprocess
import sys
import time

import pytest

from benchmarks.common.worker import ROOT
from benchmarks.session import __main__ as session_command
from benchmarks.session.runner import LeftOut, PartError, Session
from lagseg_jax.runtime.errors import InputError

SCRIPT = ROOT / "benchmarks" / "gpu_session.sh"


def test_the_script_passes_its_options_on():
    checker = ["shellcheck"] if shutil.which("shellcheck") else ["bash", "-n"]
    subprocess.run([*checker, SCRIPT], check=True)
    echo = {"PYTHON": "echo"}
    done = subprocess.run([SCRIPT, "--tiny"], env=echo, cwd="/", capture_output=True, text=True)
    assert done.stdout == "-m benchmarks.session --tiny\n"


@pytest.fixture
def on_a_gpu(monkeypatch):
    """What JAX would say there."""
    about = {"device": "a GPU", "platform": "gpu", "jax": "1.2.3"}
    monkeypatch.setattr(Session, "ask_jax", lambda session: about)
    return about


def test_every_row_is_in_the_json_at_once(tmp_path, monkeypatch, capsys, on_a_gpu):
    output, seen = tmp_path / "session", []

    def good(session):
        session.add("speed", 2 / 3, "volumes/s")
        seen.append(json.loads((output / "session.json").read_text()))

    def missing(session):
        raise LeftOut("missing: no interpreter")

    def bad(session):
        session.add("before", 1, "s")
        raise PartError("bad: exit status 3")

    parts = {"bad": (bad, 9), "missing": (missing, 9), "other": (bad, 9), "good": (good, 9)}
    monkeypatch.setattr(session_command, "PARTS", parts)
    options = ["--tiny", f"--output={output}", "--parts=good,bad,missing"]
    assert session_command.main(options) == 1
    (found,) = seen
    assert found["problems"] == ["bad: exit status 3"]
    assert found["left out"] == ["missing: no interpreter"]
    assert found["machine"]["device"] == "a GPU"
    assert [(row["part"], row["what"]) for row in found["rows"]] == [
        *(("phantoms", "this part"), ("bad", "before"), ("bad", "this part")),
        *(("missing", "this part"), ("good", "speed")),
    ]
    out = capsys.readouterr().out
    assert "| good | speed | 0.6667 volumes/s |" in out
    assert out.endswith("- bad: exit status 3\n\nLeft out:\n- missing: no interpreter\n")
    with pytest.raises(InputError, match="is there, expected the name of a new folder"):
        session_command.main(options)
    with pytest.raises(InputError, match="--parts names 'x'"):
        session_command.main([f"--output={tmp_path / 'new'}", "--parts=x"])


def test_what_is_left_out_is_no_failure_but_a_cpu_is_refused(tmp_path, on_a_gpu):
    """Without an interpreter for nnU-Net, and without the time for the last part."""
    options = ["--tiny", "--minutes=0.01", "--parts=accuracy,speed"]
    assert session_command.main([*options, f"--output={tmp_path / 'session'}"]) == 0
    found = json.loads((tmp_path / "session" / "session.json").read_text())
    assert [text.split(":")[0] for text in found["left out"]] == ["accuracy", "speed"]
    on_a_gpu["platform"] = "cpu"
    with pytest.raises(InputError, match="JAX computes on the CPU here, expected a GPU"):
        session_command.main([f"--output={tmp_path / 'other'}"])


def test_parts_are_kept_within_twelve_minutes_without_nnunet():
    """In the worst case the last one has less, or is left out; the phantoms take half a minute."""
    most = {name: seconds for name, (_, seconds) in session_command.PARTS.items()}
    before = sum(most[name] for name in most if name not in ("accuracy", "speed"))
    assert 30 + before < 60 * session_command.parse_arguments(["--output=x"]).minutes - 180


@pytest.fixture
def session(tmp_path, monkeypatch):
    """One whose modules lie in a folder of the test."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = session_command.parse_arguments(
        [f"--output={tmp_path}", f"--python={sys.executable}"]
    )
    return Session(options, tmp_path, tmp_path, end=time.monotonic() + 60)


def test_a_command_and_its_children_end_with_the_time_of_the_part(session, tmp_path):
    child = "import pathlib, time; time.sleep(3); pathlib.Path('late').touch()"
    (tmp_path / "hangs.py").write_text(
        "import os, subprocess, sys, time\n"
        f"os.chdir({str(tmp_path)!r})\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "print('waiting', flush=True)\n"
        "time.sleep(60)\n"
    )
    session.end = time.monotonic() + 1
    with pytest.raises(PartError, match=r"name: its time is over after \d s: waiting"):
        session.run("name", "hangs")
    time.sleep(3)
    assert not (tmp_path / "late").exists()


def test_what_a_command_says_is_kept(session, tmp_path):
    """The first step is the second line of metrics.jsonl: the first one is its header."""
    (tmp_path / "works.py").write_text(
        "import os, pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1]).write_text('header\\n')\n"
        "time.sleep(0.5)\n"
        "pathlib.Path(sys.argv[1]).write_text('header\\n{\"step\": 5}\\n')\n"
        "time.sleep(0.5)\n"
        "print(os.environ['LAGSEG_TRACE'])\n"
        "sys.exit(int(sys.argv[2]))\n"
    )
    metrics = tmp_path / "metrics.jsonl"
    session.part = "part"
    seconds = session.run("name", "works", str(metrics), "0", watch=metrics, trace="stages")
    (row,) = session.result["rows"]
    assert row["what"] == "start and 5 steps" and 0.5 <= row["value"] <= seconds - 0.4
    assert (tmp_path / "name.log").read_text() == "stages\n"
    with pytest.raises(PartError, match="exit status 3"):
        session.run("name", "works", str(metrics), "3")
