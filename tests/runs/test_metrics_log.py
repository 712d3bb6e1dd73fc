"""Curves: every step once after a restart, readable after a kill, no TensorFlow for the board."""

import json
import resource
import struct
import subprocess
import sys

import pytest

from lagseg_jax.runs.metrics_log import MetricsWriter, read_rows

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


def test_a_validation_made_up_for_completes_the_row_of_its_step(tmp_path):
    write(tmp_path, 0, [2, 4], note=0)
    writer = MetricsWriter(tmp_path, HEADER, 4)
    before = rows(tmp_path)  # a kill before the validation has its scores loses nothing
    assert before[-1] == {"step": 4, "loss": 0.5, "note": 0}
    writer.write(4, {"validation_dice": float("nan")})
    writer.write(6, {"loss": 0.75})
    writer.close()
    assert rows(tmp_path) == [
        *before[:-1],
        {"step": 4, "loss": 0.5, "note": 0, "validation_dice": None},
        {"step": 6, "loss": 0.75},
    ]
    write(tmp_path, 8, [8])  # no row for this step yet
    assert steps_of(tmp_path) == [2, 4, 6, 8]


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


# A full disk


def test_a_full_disk_stops_no_writer(tmp_path, caplog):
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
    assert len(caplog.records) == 1 and "cannot be written" in caplog.text
    writer.write(101, {"loss": 0.0})
    writer.close()
    assert steps_of(tmp_path) == list(range(1, 102))
