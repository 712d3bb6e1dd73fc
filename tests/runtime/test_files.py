"""Files appear complete or not at all; tables and JSON that every reader takes."""

import json
import math
import os
import subprocess
import sys

import pytest

from lagseg_jax.runtime import files
from lagseg_jax.runtime.files import write_atomically, write_csv, write_json, written_atomically

KILLED = """
import os, sys
from pathlib import Path
from lagseg_jax.runtime.files import written_atomically
with written_atomically(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_the_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "mask.nii.gz"
    write_atomically(path, "before")
    with pytest.raises(ZeroDivisionError), written_atomically(path) as temporary:
        assert temporary.parent == tmp_path and temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")  # libraries write what the suffix says
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["mask.nii.gz"]
    write_atomically(path, b"after")
    assert path.read_bytes() == b"after" and os.listdir(tmp_path) == ["mask.nii.gz"]


def test_the_longest_names_can_be_written(tmp_path):
    path = tmp_path / ("x" * 248 + ".nii.gz")
    write_atomically(path, "whole")
    assert os.listdir(tmp_path) == [path.name]


def test_what_a_killed_process_left_goes_and_what_a_live_one_writes_stays(tmp_path, monkeypatch):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a.txt")]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert os.listdir(tmp_path) == [killed.stdout.strip()]
    mine = tmp_path / f".partial-{files._HOST}-{os.getpid()}-1000.txt"
    parent = tmp_path / f".partial-{files._HOST}-{os.getppid()}-0.txt"
    elsewhere = tmp_path / ".partial-othermachine-1-0.txt"
    for path in (mine, parent, elsewhere):
        path.write_text("being written")
    write_atomically(tmp_path / "b.txt", "whole")
    assert {p.name for p in tmp_path.iterdir()} == {"b.txt", mine.name, parent.name, elsewhere.name}


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": [math.nan, 1.5, (math.inf, 2)], "b": {"c": -math.inf}})
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": [None, 1.5, [None, 2]],
        "b": {"c": None},
    }


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2", "@x", "\t=1", "\r=1"])
def test_no_text_of_a_table_is_a_formula(tmp_path, text):
    write_csv(tmp_path / "x.csv", ["case", "ml"], [{"case": text, "ml": -1.5}, {"case": "a=b"}])
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = file.read().split("\n")
    assert rows[1].strip('"').startswith("'") and rows[1].endswith(",-1.5")
    assert rows[2:] == ["a=b,", ""]
