"""Odd names, pipes and strange JSON, in every command: no traceback, no hang, no raw control."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

import tiny_run
from lagseg_jax import calibrate, check, compare, export, info, main, predict, report
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json, short_name

LONG = b"=n" + b"\xc3\xbc" * 124  # 250 bytes
NAMES = [b"a$x^{$", b"<b>&\"'%s%d", b"two\nlines\x1b]0;x\x07", b"caf\xe9\xff", b"\x1b[31mred", LONG]
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
DEEP = "[" * 100_000 + "]" * 100_000
STRANGE = {
    "deep": DEEP,
    "deep object": '{"a":' * 60 + "1" + "}" * 60,
    "list": "[1, 2]",
    "null": "null",
    "number": "1" * 5000,
    "empty": "",
    "bytes": "\udcff\udcfe",
    "types": '{"train": 3, "encoder": [], "planes": {"a": 1}, "settings": 4, "sha256": {"x": 3}}',
}
COMMANDS = {c.__name__.rpartition(".")[2]: c for c in (check, compare, info, main, predict, report)}
COMMANDS |= {c.__name__.rpartition(".")[2]: c for c in (calibrate, export)}


@pytest.fixture(autouse=True)
def impatience():
    """A command that waits for a pipe fails instead of waiting forever."""

    def ring(*_):
        raise RuntimeError("still waiting")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def call(capsys):
    """Calls a command; returns its exit status, after a look at what it said."""

    def run(name, *arguments):
        status = exit_status(lambda: COMMANDS[name].main([str(a) for a in arguments]))
        said = "".join(capsys.readouterr())
        assert not CONTROL.search(said.replace("\r", "")) and "Traceback" not in said
        return status

    return run


def config_of(root):
    return f"--config={tiny_run.__file__}:{root}"


@pytest.fixture
def spoilt(finished_run, tmp_path):
    """A copy of a finished run."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_odd_names_of_cases_in_every_command(phantom, tmp_path, call):
    root, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "out"
    for number, name in enumerate(NAMES, 1):
        case = phantom / "task2" / "train_data" / f"train_{number}"
        shutil.copytree(os.fsencode(case), os.path.join(os.fsencode(root), name))
    odd = {os.fsdecode(name) for name in NAMES}
    assert call("check", root, "--json", tmp_path / "check.json") == 0
    assert call("main", config_of(root), f"--workdir={run}") == 0
    split = json.loads((run / "splits.json").read_text())
    assert {name for part in ("train", "validation", "test") for name in split[part]} == odd
    assert call("report", run) == 0
    extras = ("--preview", "--statistics", "--save_probabilities", "--mesh")
    again = ("predict", "--workdir", run, "-i", root, "-o", out, *extras)
    assert call(*again) == 0 and call(*again, "--resume") == 0
    written = {p.name for p in out.glob("*.nii.gz")}
    assert written == {f"{short_name(name)}.nii.gz" for name in odd}
    assert all(len(list((out / part).iterdir())) == 6 for part in ("previews", "meshes"))
    assert call("compare", root, out, "--output", tmp_path / "scores") == 0
    split_file = ("--split", run / "splits.json")
    assert call("compare", root, run / "evaluation" / "masks", out, *split_file) == 0


def test_odd_paths_in_every_command(finished_run, phantom, tmp_path, call):
    odd = tmp_path / "w\x1b[31m$%s<café\n'\""
    shutil.copytree(finished_run, odd / "run")
    shutil.copytree(phantom, odd / "data")
    image = next(odd.rglob("enhanced.nii.gz"))
    assert call("check", odd / "data") == 0
    assert call("report", odd / "run") == 0
    assert call("info", "--weights", odd, "--json") == 0
    assert call("main", "--mode=evaluate", f"--workdir={odd / 'run'}") == 0
    assert call("predict", "--workdir", odd / "run", "-i", image, "-o", odd / "out") == 0
    assert call("export", "--workdir", odd / "run", "-o", odd / "x.safetensors") == 0
    assert call("calibrate", odd / "run") == 0
    for name in ("check", "calibrate", "report"):
        assert call(name, odd / "none") == 2
    assert call("compare", odd / "none", odd / "none") == 2
    assert call("check", odd, "--unknown\x1b[31m") == 2
    assert call("main", config_of(phantom), "--config.\x1b[31m=1", "--workdir=x") == 2


def test_a_workdir_that_orbax_cannot_write_to_is_refused_before_the_work(phantom, tmp_path, call):
    workdir = tmp_path / os.fsdecode(b"caf\xe9")
    assert call("main", config_of(phantom), f"--workdir={workdir}") == 2
    assert not workdir.exists()


RECORDS = ("config.json", "splits.json", "planes.json", "metrics.jsonl", ".lock")
RECORDS += ("evaluation/summary.json", "evaluation/manifest.json", "evaluation/per_case.csv")


@pytest.mark.parametrize("file", [*RECORDS, "evaluation/fusion_weights.csv", "checkpoints/pipe"])
def test_a_pipe_in_a_workdir_is_not_waited_for(spoilt, phantom, call, file):
    (spoilt / file).unlink(missing_ok=True)
    os.mkfifo(spoilt / file)
    assert call("report", spoilt) in (0, 2)
    # What an evaluation needs and cannot read is an error; the rest it writes anew.
    needed = file in RECORDS[:4]
    assert call("main", "--mode=evaluate", f"--workdir={spoilt}") == (2 if needed else 0)
    if file == "splits.json":
        assert call("compare", phantom, spoilt / "evaluation/masks", "--split", spoilt / file) == 2


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
def test_strange_json_in_a_workdir_is_a_sentence(spoilt, phantom, tmp_path, call, content):
    raw = content.encode("utf-8", "surrogateescape")
    for file in RECORDS[:3]:
        whole = (spoilt / file).read_bytes()
        (spoilt / file).write_bytes(raw)
        assert call("main", "--mode=evaluate", f"--workdir={spoilt}") == 2
        (spoilt / file).write_bytes(whole)
    (spoilt / "splits.json").write_bytes(raw)
    masks = spoilt / "evaluation" / "masks"
    assert call("compare", phantom, masks, "--split", spoilt / "splits.json") == 2
    (spoilt / "metrics.jsonl").write_bytes(raw)
    assert call("report", spoilt) in (0, 2)
    (spoilt / "evaluation" / "summary.json").write_bytes(raw)
    assert call("report", spoilt) == 2
    dataset = tmp_path / "dataset"
    (dataset / "imagesTr").mkdir(parents=True)
    (dataset / "dataset.json").write_bytes(raw)
    assert call("check", dataset) == 2
    (tmp_path / "card.json").write_bytes(raw)
    assert call("info", "--weights", tmp_path) == 0


def test_pipes_in_a_dataset_are_not_waited_for(finished_run, phantom, tmp_path, call):
    root = Path(shutil.copytree(phantom, tmp_path / "data"))
    cases = root / "task2" / "train_data"
    for place in (root, cases, cases / "train_1"):
        os.mkfifo(place / "pipe")
        os.mkfifo(place / "pipe.nii.gz")
    assert call("check", cases) == 0
    (cases / "train_2" / "enhanced.nii.gz").unlink()
    os.mkfifo(cases / "train_2" / "enhanced.nii.gz")
    (cases / "train_3" / "atriumSegImgMO.nii.gz").unlink()
    os.mkfifo(cases / "train_3" / "atriumSegImgMO.nii.gz")
    assert call("check", cases) == 2
    assert call("main", config_of(cases), f"--workdir={tmp_path / 'run'}") == 2
    folder = Path(shutil.copytree(cases / "train_4", tmp_path / "in"))
    for name in ("pipe", "records", "other.nii.gz"):
        os.mkfifo(folder / name)
    out = tmp_path / "out"
    assert call("predict", "--workdir", finished_run, "-i", folder, "-o", out) == 2
    assert (out / "enhanced.nii.gz").exists() and not (out / "other.nii.gz").exists()
    assert call("compare", folder, folder) == 2


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
def test_json_is_read_or_refused_in_a_sentence(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    if content == STRANGE["types"]:
        assert read_json(path, "an x")["train"] == 3
        return
    with pytest.raises(InputError, match=f"^{path} cannot be read .*, expected an x$"):
        read_json(path, "an x")


def test_names_that_are_too_long_keep_their_beginning_and_stay_apart():
    assert short_name("é" * 124) == "é" * 124
    a, b = (short_name("é" * 130 + end) for end in "ab")
    assert a != b and a.startswith("é" * 100) and max(len(os.fsencode(n)) for n in (a, b)) <= 248
