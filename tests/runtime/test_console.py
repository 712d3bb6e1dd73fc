"""Logs: every step once after a restart, readable after a kill, and no TensorFlow for the board."""

import errno
import json
import logging
import os
import resource
import struct
import subprocess
import sys
import threading
import time

import pytest

from lagseg_jax.runs.metrics_log import MetricsWriter, read_rows
from lagseg_jax.runtime import console
from lagseg_jax.runtime.console import Progress, exit_status, still
from lagseg_jax.runtime.errors import InputError

HEADER = {"encoder": {"variant": "tiny"}, "steps": 9}


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def write(workdir, start, steps, header=HEADER, **values):
    writer = MetricsWriter(workdir, header, start)
    for step in steps:
        writer.write(step, {"loss": step / 8, **values})
    writer.close()


def steps_of(workdir):
    return [row["step"] for row in rows(workdir)[1:]]


# metrics.jsonl


def test_a_new_file_starts_with_the_header(tmp_path):
    write(tmp_path, 0, [2, 4], dice=0.5)
    assert rows(tmp_path) == [
        HEADER,
        {"step": 2, "loss": 0.25, "dice": 0.5},
        {"step": 4, "loss": 0.5, "dice": 0.5},
    ]
    assert {entry.name for entry in tmp_path.iterdir()} == {"metrics.jsonl", "tensorboard"}


def test_rows_beyond_the_resumed_step_are_replaced(tmp_path):
    write(tmp_path, 0, [2, 4, 6, 8], note=0)
    write(tmp_path, 4, [6, 8, 10], header={"encoder": "of the second start"}, note=1)
    assert rows(tmp_path)[0] == HEADER
    assert steps_of(tmp_path) == [2, 4, 6, 8, 10]
    assert [row["note"] for row in rows(tmp_path)[1:]] == [0, 0, 1, 1, 1]


def test_a_start_from_step_0_forgets_the_old_file(tmp_path):
    write(tmp_path, 0, [2, 4])
    write(tmp_path, 0, [2], header={"encoder": "new"})
    assert rows(tmp_path) == [{"encoder": "new"}, {"step": 2, "loss": 0.25}]


def test_a_line_that_a_kill_cut_off_is_forgotten(tmp_path):
    write(tmp_path, 0, [2, 4])
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    for cut in (1, 5, len(whole.splitlines()[-1])):
        path.write_text(whole[:-cut])
        write(tmp_path, 4, [6])
        # The end of the line is all that `cut = 1` removes: the row is whole.
        assert steps_of(tmp_path) == ([2, 4, 6] if cut == 1 else [2, 6])


def test_a_file_without_one_whole_line_starts_anew(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"enc')
    write(tmp_path, 4, [6])
    assert rows(tmp_path)[0] == HEADER and steps_of(tmp_path) == [6]


def test_rows_are_on_disk_at_once(tmp_path):
    writer = MetricsWriter(tmp_path, HEADER, 0)
    writer.write(3, {"loss": 1.0})
    assert steps_of(tmp_path) == [3]
    writer.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_json_cannot_say_becomes_null(tmp_path, value):
    write(tmp_path, 0, [1], validation_dice=value)
    assert rows(tmp_path)[1] == {"step": 1, "loss": 0.125, "validation_dice": None}


# TensorBoard


def scalars(folder):
    """(step, name, value) of all scalars in TensorBoard event files, from their framing."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        data, position = path.read_bytes(), 0
        while position < len(data):  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", data, position)
            event = Event.FromString(data[position + 12 : position + 12 + length])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            position += 12 + length + 4
    return found


def test_tensorboard_files_need_no_tensorflow(tmp_path):
    """In a process in which importing TensorFlow or torch fails."""
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['torch'] = None\n"
        "from lagseg_jax.runs.metrics_log import MetricsWriter\n"
        f"writer = MetricsWriter({str(tmp_path)!r}, {{}}, 0)\n"
        "writer.write(7, {'loss': 0.5, 'dice': 0.25})\n"
        "writer.close()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert scalars(tmp_path / "tensorboard") == [(7, "loss", 0.5), (7, "dice", 0.25)]


# Console


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
    for _ in range(50):
        clock[0] += 3
        progress.advance({"loss": "0.5"})
    progress.close()
    # Every 7th step is the first after more than 20 s; the last one always.
    assert [line.split(",")[0] for line in lines] == [
        f"training {step}/50" for step in (7, 14, 21, 28, 35, 42, 49, 50)
    ]
    assert lines[0] == "training 7/50, 3.00 s each, ETA 02:09, loss 0.5"  # 43 steps of 3 s
    assert lines[-1] == "training 50/50, 3.00 s each, ETA 00:00, loss 0.5"
    assert capfd.readouterr().err == ""  # no bar


def test_a_continued_run_is_timed_from_where_it_continues(lines, clock, no_terminal):
    progress = Progress("training", 100, done=90, every_seconds=1)
    clock[0] += 4
    progress.advance()
    progress.close()
    assert lines == ["training 91/100, 4.00 s each, ETA 00:36"]


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


# A full disk


def test_a_full_disk_stops_no_writer(tmp_path, lines):
    """Writing beyond 2 kB fails; what is missing follows when there is space again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = MetricsWriter(tmp_path, HEADER, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        for step in range(1, 101):
            writer.write(step, {"loss": 1 / step})
        full = [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")[1:]]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 10 < len(full) < 100 and full == list(range(1, len(full) + 1))
    assert len(lines) == 1 and "cannot be written" in lines[0]
    writer.write(101, {"loss": 0.0})
    writer.close()
    assert steps_of(tmp_path) == list(range(1, 102))


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
    console._say_error(f"error: {text}")
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
