"""The scripts of tests/faults, made short; and a signal to one of two processes."""

import os
import re
import signal
import time
from pathlib import Path

import jax

import kill9
import pod
import run_files
import soak


def test_killed_runs_end_like_others_bit_for_bit(tmp_path, monkeypatch):
    """Three kills; `python tests/faults/kill9.py --trials=100` makes more."""
    assert jax.device_count() == 2  # made before the script asks for one, in its own processes
    for name in ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # undone afterwards
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    counts = kill9.run_trials(tmp_path, trials=3)
    assert counts["kills"] == counts["restorable after the kill"] == 3
    assert counts["runs ended, equal bit for bit"] >= 1


def test_nothing_grows_and_nothing_compiles_again(tmp_path):
    figures = soak.soak(tmp_path, steps=60, every=3)
    assert figures["steps"] == 60 and figures["compilations"]
    assert not figures["compilations_later"]
    for name in ("threads", "open_files"):
        assert figures[name][1] <= figures[name][0], name
    assert figures["memory_growth_mb"] < 50


def test_sigterm_to_one_of_two_processes_saves_the_same_step_in_both(phantom, tmp_path):
    workdir = tmp_path / "run"
    config = f"--config={pod.ROOT}/tests/helpers/tiny_run.py:{phantom}"
    # Neither the end nor another reason to save is near.
    far = [f"--config.train.{name}=9999" for name in ("steps", "evaluate_every")]
    far.append("--config.train.checkpoint_every=9999")
    group = pod.start(2, "lagseg_jax.main", config, f"--workdir={workdir}", *far)
    try:
        deadline = time.monotonic() + 200
        while len(run_files.rows(workdir)) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        children = Path(f"/proc/{group.pid}/task/{group.pid}/children").read_text().split()
        sent, reached = time.monotonic(), run_files.rows(workdir)[-1]["step"]
        os.kill(int(children[1]), signal.SIGTERM)  # not the process that writes
        said, _ = group.communicate(timeout=60)
    finally:
        group.kill()
    assert time.monotonic() - sent < 20  # 10 s for the checkpoint; the rest on a busy machine
    stops = re.findall(r"stopped by a signal after step (\d+); the same command continues", said)
    (step,) = set(stops)
    assert group.returncode == 75 and int(step) >= reached, said
    assert run_files.saved_steps(workdir) == [int(step)]
    assert run_files.rows(workdir)[-1]["step"] == int(step)
