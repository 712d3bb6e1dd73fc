"""benchmarks.common.worker: what a worker answers, where it runs, and why it cannot."""

import os
import signal
import subprocess
import sys
import time

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


BUSY = """
import os, subprocess, sys, time

def work(path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(path + ".part", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(path + ".part", path)
    time.sleep(600)

COMMANDS = {"work": work}
"""
COORDINATOR = """
import sys
from pathlib import Path
from benchmarks.common.worker import Worker
Worker("busy_commands", sys.executable, Path(sys.argv[1]) / "log").call("work", path=sys.argv[2])
"""


def test_a_worker_ends_with_a_coordinator_that_is_killed(tmp_path, monkeypatch):
    """At work, and with a child of its own, as nnU-Net's loaders are."""
    (tmp_path / "busy_commands.py").write_text(BUSY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    pids = tmp_path / "pids"
    command = [sys.executable, "-c", COORDINATOR, str(tmp_path), str(pids)]
    with subprocess.Popen(command) as coordinator:
        assert within(60, pids.exists)
        coordinator.send_signal(signal.SIGKILL)
    left = [int(word) for word in pids.read_text().split()]
    assert len(left) == 2 and within(30, lambda: not any(map(is_alive, left)))


def within(seconds, condition):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def is_alive(pid):
    """Whether it runs; where nobody waits for orphans, they stay as zombies."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
