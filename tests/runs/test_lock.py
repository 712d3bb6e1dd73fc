"""One process at a time writes into a folder, and a killed one leaves no lock."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from lagseg_jax.runs.lock import NAME, locked
from lagseg_jax.runtime.errors import InputError

HOLD = """
import sys, time
from pathlib import Path
from lagseg_jax.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the folder `run`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_and_told_who_is_at_work(tmp_path, holder):
    with pytest.raises(InputError) as caught, locked(tmp_path / "run"):
        pass
    sentence = str(caught.value)
    assert f"process {holder.pid} on {socket.gethostname()} since 20" in sentence
    assert str(tmp_path / "run") in sentence
    with locked(tmp_path / "other"):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / NAME).exists()
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / NAME).read_text())["pid"] == os.getpid()


def test_it_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path), pytest.raises(InputError), locked(tmp_path):
        pass


def test_a_process_that_is_started_inside_does_not_keep_it(tmp_path):
    with locked(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with locked(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def test_where_there_are_no_locks_it_says_so_and_goes_on(tmp_path, monkeypatch, caplog):
    def none(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locked(tmp_path):
        pass
    assert f"{tmp_path} has no locks (No locks available)" in caplog.text


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "elsewhere").read_text() == "precious"
