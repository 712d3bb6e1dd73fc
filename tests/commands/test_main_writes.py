"""The command line and a workdir: what is refused writes nothing, and one training is at work."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_run
from lagseg_jax import main
from lagseg_jax.runtime.errors import InputError


def test_a_changed_architecture_does_not_continue_a_run(finished_run, phantom):
    config = tiny_run.config(phantom)
    config.decoder.widths = (16, 16, 16)
    with pytest.raises(ValueError, match=r"config\.decoder\.widths"):
        main.run(config, finished_run, "train")


def contents(folder):
    """All files but the one that says who works here."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize(
    ("mode", "changes", "expected"),
    [
        ("train", {"encoder.seed": 1}, "trained on an encoder with SHA-256"),
        ("train", {"encoder.weights": "nowhere"}, "nowhere"),
        ("train", {"data.root": "nowhere"}, "nowhere"),
        ("train", {"data.cache_gb": 1e-9, "train.learning_rate": 0.5}, "config.data.cache_gb"),
        ("evaluate", {"encoder.weights": "nowhere"}, "nowhere"),
        ("evaluate", {"data.root": "nowhere"}, "nowhere"),
        ("evaluate", {"data.image_size": 56}, "config.data.image_size is 56"),
        ("evaluate", {"predict.threshold": 5.0}, "config.predict.threshold is 5.0"),
    ],
)
def test_a_refused_command_writes_nothing(finished_run, phantom, tmp_path, mode, changes, expected):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    before = contents(workdir)
    config = tiny_run.config(phantom)
    for field, value in changes.items():
        section, name = field.split(".")
        config[section][name] = value
    with pytest.raises(InputError, match=expected):
        main.run(config, workdir, mode)
    assert contents(workdir) == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"encoder.weights": "nowhere"}, "nowhere"),
        ({"data.cache_gb": 1e-9}, "config.data.cache_gb"),
        ({"data.window": (1e6, 2e6)}, "window"),
        ({"train.init_from": "RUN", "data.split_seed": 1}, "seen_case"),  # once all is decoded
    ],
)
def test_a_refused_training_leaves_nothing_in_a_new_workdir(
    finished_run, phantom, tmp_path, changes, expected
):
    config = tiny_run.config(phantom)
    for field, value in changes.items():
        section, name = field.split(".")
        config[section][name] = str(finished_run) if value == "RUN" else value
    with pytest.raises(InputError, match=expected):
        main.run(config, tmp_path / "runs" / "new", "train")
    assert not (tmp_path / "runs").exists()
    own = tmp_path / "own" / "splits.json"
    own.parent.mkdir()
    own.write_text('{"train": ["train_1"], "validation": ["train_2"], "test": ["train_3"]}')
    (own.parent / "notes.txt").write_text("mine")
    before = contents(own.parent)
    with pytest.raises(InputError):
        main.run(config, own.parent, "train")
    assert contents(own.parent) == before and not (own.parent / ".lock").exists()


def test_an_evaluation_leaves_the_record_of_the_training(finished_run, phantom, tmp_path, caplog):
    """Given another seed, rate and loss, it says what was trained, and how it predicted."""
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    trained = json.loads((workdir / "config.json").read_text())
    config = tiny_run.config(phantom, loss="dice", learning_rate=0.5)
    config.seed, config.encoder.seed, config.predict.threshold = 9, 9, 0.25
    caplog.set_level("INFO", "lagseg_jax")
    main.run(config, workdir, "evaluate")
    assert "predict.threshold 0.5 -> 0.25" in caplog.text
    assert caplog.text.count("has random weights") == 1
    assert f"{workdir}/evaluation/summary.json, {workdir}/evaluation/per_case.csv" in caplog.text
    expected = trained | {"predict": trained["predict"] | {"threshold": 0.25}}
    assert json.loads((workdir / "config.json").read_text()) == expected
    manifest = json.loads((workdir / "evaluation" / "manifest.json").read_text())
    assert manifest["config"]["train"] == trained["train"] and manifest["seed"] == trained["seed"]
    assert manifest["config"]["predict"] == trained["predict"] | {"threshold": 0.25}


def test_a_workdir_that_holds_a_run_needs_no_config(finished_run, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    workdir = Path("run")
    shutil.copytree(finished_run, workdir)
    before = json.loads((workdir / "evaluation" / "summary.json").read_text())
    arguments = [f"--workdir={workdir}", "--mode=evaluate", "--config.predict.batch_size=3"]
    assert main.main(arguments) == 0
    written = re.findall(r"^  .{17} (.*?)(?: \(best.*)?$", "".join(capfd.readouterr()), re.M)
    written = [Path(path) for line in written for path in line.split(", ")]
    assert len(written) == 8 and all(path.exists() for path in written), written
    assert json.loads((workdir / "evaluation" / "summary.json").read_text()) == before
    with pytest.raises(InputError, match=r"config\.predict\.batch_size"):
        main.main([f"--workdir={workdir}", "--config.predict.batch_sizes=3"])
    with pytest.raises(InputError, match="expected the record of a training run"):
        main.main([f"--workdir={tmp_path / 'other'}"])


def test_one_training_at_a_time(finished_run, phantom, tmp_path):
    """A second one is refused and changes nothing; an evaluation meanwhile is not."""
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    code = (
        "import sys, time; from pathlib import Path; from lagseg_jax.runs.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", code, str(workdir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            before = contents(workdir)
            with pytest.raises(InputError, match=rf"is in use by process {holder.pid} on"):
                tiny_run.run(workdir, phantom)
            assert contents(workdir) == before
            assert tiny_run.run(workdir, phantom, "evaluate")["n_cases"] == 2
        finally:
            holder.kill()
    assert tiny_run.run(workdir, phantom)["n_cases"] == 2
