"""benchmarks.common.worker: what a worker answers, where it runs, and why it cannot."""

import os
import sys

import pytest

from benchmarks.common.worker import Worker, WorkerError

COMMANDS = """
import os

def fail():
    raise ValueError("no such\\nrow")

COMMANDS = {"cores": lambda: len(os.sched_getaffinity(0)), "fail": fail, "end": lambda: os._exit(3)}
COMMANDS["variable"] = lambda: os.environ["nnUNet_raw"]
"""


def test_a_worker_keeps_to_its_cores_and_says_why_it_cannot(tmp_path, monkeypatch):
    (tmp_path / "some_commands.py").write_text(COMMANDS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    core = min(os.sched_getaffinity(0))
    told = [core], {"nnUNet_raw": "here"}
    with Worker("some_commands", sys.executable, tmp_path / "log", *told) as worker:
        assert worker.call("cores") == 1 and worker.call("variable") == "here"
        assert worker.call("malloc")
        with pytest.raises(WorkerError, match="fail: ValueError: no such row"):
            worker.call("fail")
        with pytest.raises(WorkerError, match="end: the worker ended with 3"):
            worker.call("end")


def test_what_cannot_be_imported_is_the_answer(tmp_path):
    with Worker("benchmarks.no_such_module", sys.executable, tmp_path / "log") as worker:
        with pytest.raises(WorkerError, match="no_such_module"):
            worker.call("describe", timeout=60)
