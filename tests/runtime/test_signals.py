"""Signals: at once, or at the end of a step; the second Ctrl-C; and the exit status."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import Interrupted
from lagseg_jax.runtime.signals import deferred, handled


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_at_once(number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=signal.Signals(number).name), handled(True):
        send(number)
        pytest.fail("went on")
    assert signal.getsignal(number) == before


def test_deferred_until_asked_for():
    with handled(True), deferred() as asked:
        assert not asked()
    with pytest.raises(Interrupted, match="SIGTERM"), handled(True):
        with deferred() as asked:
            send(signal.SIGTERM)
            send(signal.SIGTERM)  # launchers send it twice
            assert asked()
        pytest.fail("the end of the block says it at the latest")
    with handled(True), deferred() as asked:
        assert not asked()  # a signal of the past is forgotten


def test_the_second_ctrl_c_stops_at_once():
    with pytest.raises(Interrupted), handled(True):
        with deferred():
            send(signal.SIGTERM)  # as launchers do along with Ctrl-C
            assert signal.getsignal(signal.SIGINT) != signal.SIG_DFL
            send(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_another_thread_leaves_the_signals_alone():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def work():
        with handled(True):
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]


@pytest.mark.parametrize(
    ("number", "continues", "status"),
    [
        (signal.SIGTERM, True, 75),
        (signal.SIGHUP, True, 75),
        (signal.SIGINT, False, 130),
        (signal.SIGTERM, False, 143),
        (signal.SIGHUP, False, 129),
    ],
)
def test_the_exit_status_says_whether_the_same_command_continues(capsys, number, continues, status):
    assert exit_status(lambda: send(number), continues) == status
    end = "; the same command continues" * continues
    assert capsys.readouterr().err == f"stopped by {signal.Signals(number).name}{end}\n"


COMMAND = """
import sys, time
from lagseg_jax import check
from lagseg_jax.runtime.console import exit_status
check.find_datasets = lambda *_: print("reading", flush=True) or time.sleep(60)
sys.exit(exit_status(lambda: check.main(["somewhere"])))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_says_one_sentence(number):
    command = [sys.executable, "-c", COMMAND]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert said == f"stopped by {number.name}\n"
