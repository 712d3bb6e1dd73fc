"""A study on phantoms, and one that is ended while it trains."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny_run
from lagseg_jax import study
from lagseg_jax.runs.lock import locked
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.console import exit_status
from run_files import saved_steps
from study_arms import ROOT, THREE_ARMS

pytestmark = pytest.mark.usefixtures("at_root")


def test_a_study_on_phantoms(tmp_path, phantom, finished_run, monkeypatch):
    # One arm is the session's finished run, one is trained here, one cannot be trained.
    monkeypatch.setenv("PYTHONPATH", str(Path(tiny_run.__file__).parent))
    config, arms = tmp_path / "config.py", tmp_path / "arms.py"
    config.write_text(
        "from pathlib import Path\nimport tiny_run\n\n"
        f"def get_config():\n    return tiny_run.config(Path({str(phantom)!r}))\n"
    )
    arms.write_text(THREE_ARMS)
    workdir = tmp_path / "study"
    shutil.copytree(finished_run, workdir / "all" / "seed0")
    line = [f"--study={arms}", f"--config={config}", f"--workdir={workdir}"]
    assert exit_status(lambda: study.main(line)) == 1

    assert read_config(workdir / "last" / "seed0").fusion.blocks == "last"
    tests = {
        arm: json.loads((workdir / arm / "seed0" / "splits.json").read_text())["test"]
        for arm in ("all", "last")
    }
    assert tests["all"] == tests["last"]
    summaries = {
        arm: json.loads((workdir / arm / "seed0" / "evaluation" / "summary.json").read_text())
        for arm in tests
    }
    record = json.loads((workdir / "study.json").read_text())
    rows = {row["arm"]: row for row in record["rows"] if row["metric"] == "dice"}
    for arm in tests:
        assert rows[arm]["mean"] == pytest.approx(summaries[arm]["dice"]["mean"])
        assert rows[arm]["sd_cases"] == pytest.approx(summaries[arm]["dice"]["sd"])
        assert rows[arm]["training_cases"] == 3
    first = (workdir / "last" / "seed0" / "metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["steps"] == 2  # config.train.steps has precedence over the epochs
    text = (workdir / "table.md").read_text()
    assert "few seed0: failed exit status 2: error: config.data.train_patients is 99" in text
    assert "random weights" in text


def processes_of(workdir):
    """Numbers of the trainings of a study that run."""
    found = subprocess.run(["pgrep", "-f", f"workdir={workdir}/"], capture_output=True, text=True)
    return [int(number) for number in found.stdout.split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_study_that_ends_takes_its_training_with_it(tmp_path, phantom, number):
    """And can be started again at once, without two trainings in one folder."""
    workdir = tmp_path / "study"
    command = [sys.executable, "-m", "lagseg_jax.study", "--study=configs/ablations/recipe.py"]
    command += [f"--config=tests/helpers/tiny_run.py:{phantom}", f"--workdir={workdir}"]
    command += ["--config.train.steps=100000", "--config.train.evaluate_every=5"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as study:
        try:
            deadline = time.monotonic() + 100
            while not (workdir / "recipe" / "seed0" / "checkpoints" / "5").is_dir():
                assert study.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
            assert processes_of(workdir)
            second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert second.returncode == 2 and f"process {study.pid} on" in second.stderr
        finally:
            study.send_signal(number)
    deadline = time.monotonic() + 20
    while processes_of(workdir):
        assert time.monotonic() < deadline, "the training goes on"
        time.sleep(0.2)
    steps = saved_steps(workdir / "recipe" / "seed0")
    assert steps[-1] >= 5  # what the training was at is saved
    with locked(workdir / "recipe" / "seed0"):
        pass
