"""bash benchmarks/gpu_session.sh: a part that hangs or fails leaves the others their time."""

import json
import shutil
import subprocess
import sys
import time

import pytest

from benchmarks.common.worker import ROOT
from benchmarks.session import __main__ as session_command
from benchmarks.session.runner import PartError, Session
from lagseg_jax.runtime.errors import InputError

SCRIPT = ROOT / "benchmarks" / "gpu_session.sh"


def test_the_script_passes_its_options_on():
    checker = ["shellcheck"] if shutil.which("shellcheck") else ["bash", "-n"]
    subprocess.run([*checker, SCRIPT], check=True)
    echo = {"PYTHON": "echo"}
    done = subprocess.run([SCRIPT, "--tiny"], env=echo, cwd="/", capture_output=True, text=True)
    assert done.stdout == "-m benchmarks.session --tiny\n"


def test_every_part_is_in_the_json_as_soon_as_it_is_over(tmp_path, monkeypatch, capsys):
    output, seen = tmp_path / "session", []

    def good(session):
        session.add("speed", 2 / 3, "volumes/s")

    def bad(session):
        session.add("before", 1, "s")
        raise PartError("bad: exit status 3")

    def last(session):
        seen.append(json.loads((output / "session.json").read_text()))

    parts = {"good": (good, 9), "bad": (bad, 9), "left out": (bad, 9), "last": (last, 9)}
    monkeypatch.setattr(session_command, "PARTS", parts)
    options = ["--tiny", f"--output={output}", "--parts=good,bad,last"]
    assert session_command.main(options) == 1
    (before,) = seen
    assert before["problems"] == ["bad: exit status 3"]
    assert [row["what"] for row in before["rows"]] == ["speed", "this part", "before", "this part"]
    out = capsys.readouterr().out
    assert "| good | speed | 0.6667 volumes/s |" in out and out.endswith("- bad: exit status 3\n")
    with pytest.raises(InputError, match="is there, expected the name of a new folder"):
        session_command.main(options)
    with pytest.raises(InputError, match="--parts names 'x'"):
        session_command.main([f"--output={tmp_path / 'new'}", "--parts=x"])


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
        "pathlib.Path(sys.argv[1]).write_text('header\\nstep\\n')\n"
        "time.sleep(0.5)\n"
        "print(os.environ['LAGSEG_TRACE'])\n"
        "sys.exit(int(sys.argv[2]))\n"
    )
    metrics = tmp_path / "metrics.jsonl"
    found = session.run("name", "works", str(metrics), "0", watch=metrics, trace="stages")
    assert 0.5 <= found["first_step"] <= found["seconds"] - 0.4
    assert (tmp_path / "name.log").read_text() == "stages\n"
    with pytest.raises(PartError, match="exit status 3"):
        session.run("name", "works", str(metrics), "3")
