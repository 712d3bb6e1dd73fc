"""Signals: at once, or at the end of a step; the second Ctrl-C; and the exit status."""

import os
import signal
import threading

import pytest

from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import Interrupted
from lagseg_jax.runtime.signals import deferred, handled


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_once(number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=signal.Signals(number).name), handled():
        send(number)
        pytest.fail("went on")
    assert signal.getsignal(number) == before


def test_deferred_until_asked_for():
    with handled(), deferred() as asked:
        assert not asked()
    with pytest.raises(Interrupted, match="SIGTERM"), handled():
        with deferred() as asked:
            send(signal.SIGTERM)
            send(signal.SIGTERM)  # launchers send it twice
            assert asked()
        pytest.fail("the end of the block says it at the latest")
    with handled(), deferred() as asked:
        assert not asked()  # a signal of the past is forgotten


def test_the_second_ctrl_c_stops_at_once():
    with pytest.raises(Interrupted), handled():
        with deferred():
            send(signal.SIGTERM)  # as launchers do along with Ctrl-C
            assert signal.getsignal(signal.SIGINT) != signal.SIG_DFL
            send(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def test_another_thread_leaves_the_signals_alone():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def work():
        with handled():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]


def test_exit_status_75_and_one_line(capsys):
    def main():
        with handled():
            send(signal.SIGTERM)

    assert exit_status(main) == 75
    assert capsys.readouterr().err == "stopped by SIGTERM; the same command continues\n"
