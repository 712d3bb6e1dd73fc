"""Console: progress with ETA, no long silence, one sentence and a status for what goes wrong."""

import errno
import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lagseg_jax.runtime import console
from lagseg_jax.runtime.console import Progress, Watchdog, exit_status, still
from lagseg_jax.runtime.errors import InputError


@pytest.fixture
def lines():
    """What the package reports, as a list that grows."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    before = console.log.level
    console.log.addHandler(handler)
    console.log.setLevel(logging.INFO)
    yield messages
    console.log.removeHandler(handler)
    console.log.setLevel(before)


@pytest.fixture
def clock(monkeypatch):
    """A clock that each step of a test moves by hand."""
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def no_terminal(monkeypatch):
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: False)


def test_lines_with_eta_without_a_terminal(lines, clock, no_terminal, capfd):
    progress = Progress("training", 50, every_seconds=20)
    for step in range(50):
        clock[0] += 3 if step else 6.5  # compiles
        progress.advance({"loss": "0.5"})
    progress.close()
    # Every 7th step is the first after more than 20 s, the 6th at the start; the last one always.
    assert [line.split(",")[0] for line in lines] == [
        f"training {step}/50" for step in (6, 13, 20, 27, 34, 41, 48, 50)
    ]
    assert lines[0] == "training 6/50, 3.00 s each, ETA 02:12, loss 0.5"  # 44 steps of 3 s
    assert lines[-1] == "training 50/50, 3.00 s each, ETA 00:00, loss 0.5"
    assert capfd.readouterr().err == ""  # no bar


def test_a_continued_run_is_timed_from_where_it_continues(lines, clock, no_terminal):
    progress = Progress("training", 100, done=90, every_seconds=1)
    for seconds, compiled in ((60, False), (4, False), (30, True), (5, False)):
        clock[0] += seconds
        progress.advance(compiled=compiled)
    progress.close()
    assert lines == [
        "training 91/100",  # nothing is known yet: it has compiled
        "training 92/100, 4.00 s each, ETA 00:32",
        "training 93/100, 4.00 s each, ETA 00:28",
        "training 94/100, 4.50 s each, ETA 00:27",
    ]


def test_the_bar_is_timed_without_the_compilation_too(lines, monkeypatch, clock, capsys):
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    now = [50.0]
    progress = Progress("training", 100, done=90)
    monkeypatch.setattr(progress._bar, "_time", lambda: now[0])
    progress._bar.start_t = progress._bar.last_print_t = now[0]
    for seconds in (60, 4, 5):
        now[0] += seconds
        clock[0] += seconds
        progress.advance()
    progress._bar.refresh()
    bar = capsys.readouterr().err.split("\r")[-1]
    assert "93/100" in bar and "00:31" in bar and "4.50s/it" in bar  # 7 steps of 4.5 s
    progress.close()


def test_a_bar_with_eta_on_a_terminal(lines, monkeypatch, capsys):
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    progress = Progress("training", 3)
    for _ in range(3):
        progress.advance({"loss": "0.25"})
    progress.close()
    bar = capsys.readouterr().err
    assert "training: 100%" in bar and "3/3" in bar and "loss=0.25" in bar
    assert lines == []


def test_what_takes_long_is_not_silent(lines, monkeypatch):
    monkeypatch.setattr(console, "SILENT_SECONDS", 0.05)
    with still("reading scan.nii.gz"):
        time.sleep(0.18)
    assert len(lines) >= 2 and all(line.startswith("still reading scan.nii.gz") for line in lines)
    count, threads = len(lines), threading.active_count()
    with still("reading another"):
        pass
    time.sleep(0.1)
    assert len(lines) == count and threading.active_count() == threads


def test_what_is_told_in_time_is_no_silence(lines, monkeypatch):
    monkeypatch.setattr(console, "SILENT_SECONDS", 0.4)
    watchdog = Watchdog("at step 0")
    for step in range(1, 9):
        watchdog.tell(f"at step {step}")
        time.sleep(0.1)
    assert not lines
    time.sleep(0.6)
    watchdog.close()
    assert lines and lines[0].startswith("still at step 8 after")


@pytest.mark.parametrize(("process", "prefix"), [(0, ""), (3, "[process 3] ")])
def test_a_warning_is_called_so_once(capsys, process, prefix):
    console.log_to_console(process)
    logging.getLogger("lagseg_jax.some.part").warning("%d cases", 3)
    logging.getLogger("lagseg_jax.some.part").error("bad")
    logging.getLogger("lagseg_jax.some.part").info("plain")
    said = capsys.readouterr().err.splitlines()
    assert said == [f"{prefix}WARNING: 3 cases", f"{prefix}bad", *["plain"] * (not process)]


def test_no_message_calls_itself_a_warning():
    """The handler does: another program's handler would say it twice."""
    package = Path(console.__file__).parent.parent
    calls = re.compile(r'\.warning\(\s*f?"WARNING', re.MULTILINE)
    assert not [path for path in package.rglob("*.py") if calls.search(path.read_text())]


def test_a_full_disk_is_one_sentence(capsys):
    def main():
        raise OSError(errno.ENOSPC, "No space left on device", "mask.nii.gz")

    assert exit_status(main) == 1
    assert "error: mask.nii.gz: No space left on device" in capsys.readouterr().err


# Exit status


def test_bad_input_becomes_one_sentence_and_status_2(capsys):
    def main():
        raise InputError("scan.nii is 4-D,\n  expected 3-D")

    assert exit_status(main) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: scan.nii is 4-D, expected 3-D\n" and captured.out == ""


def test_other_outcomes_pass_through():
    assert exit_status(lambda: None) == 0
    assert exit_status(lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ü 🫀\tand\nlines", "plain ü 🫀\tand\nlines"),
        ("\x1b[2Jcase", "\\x1b[2Jcase"),
        ("a\rb\x07\x9bc", "a\\x0db\\x07\\x9bc"),
        (os.fsdecode(b"caf\xe9.nii.gz"), "caf\\udce9.nii.gz"),
    ],
)
def test_what_a_terminal_gets_moves_no_cursor(capsys, text, expected):
    console.say(text)
    assert capsys.readouterr().out == expected + "\n"
    console.say_error(f"error: {text}")
    assert "\x1b" not in (said := capsys.readouterr().err) and "\x07" not in said
    assert said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/runs/x"), 2),
        (OSError(errno.EROFS, "Read-only file system", "/runs/x"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/x"), 1),
    ],
)
def test_errors_of_the_system_are_a_sentence_with_the_path(capsys, error, status):
    def main():
        raise error

    assert console.exit_status(main) == status
    assert capsys.readouterr().err == f"error: /runs/x: {error.strerror}\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "</dev/null >/dev/full"])
def test_closed_or_full_streams_are_no_traceback(closed, tmp_path):
    command = f"{sys.executable} -m lagseg_jax.check {tmp_path}/none {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    command = f"{sys.executable} -m lagseg_jax.info {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
