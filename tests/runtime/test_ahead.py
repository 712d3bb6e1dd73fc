"""Work begun ahead: its result, its error, and the end of a command that does not wait for it."""

import os
import threading

import pytest

from lagseg_jax.runtime.ahead import ahead, left


def test_the_result_and_the_error_come_when_they_are_asked_for():
    assert ahead(divmod, 17, 5).result() == (3, 2)
    failed = ahead(divmod, 17, 0)
    with pytest.raises(ZeroDivisionError):
        failed.result()


@pytest.mark.parametrize("status", [0, 2])
def test_a_command_that_ends_leaves_the_work_behind(monkeypatch, status):
    """An ordinary end would wait for the thread; without one, nothing is cut short."""

    class Exited(Exception):
        pass

    def exit_at_once(code):
        raise Exited(code)

    monkeypatch.setattr(os, "_exit", exit_at_once)
    done = threading.Event()
    work = ahead(done.wait)
    with pytest.raises(Exited, match=str(status)):
        left(status)
    done.set()
    work.result()
    ahead(int).result()  # the thread that did the work has told of its end
    for thread in threading.enumerate():
        if thread.name.startswith("ahead"):
            thread.join(0.2)
    assert left(status) == status
