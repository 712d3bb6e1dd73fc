"""kill -9 at random moments, again and again: python tests/faults/kill9.py --trials=100

Runs of the tiny config are killed and started again by the same command until they end, then the
next run begins, until there were so many kills. A quarter of the kills come at any time, also
before and after the training, a quarter between steps, half while a checkpoint is being saved.
After each kill the newest checkpoint must be whole; at the end of each run, parameters, optimiser
and logged values must be those of a run that nobody killed, bit for bit.
"""

import argparse
import collections
import json
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import tiny_run
from run_files import raw_checkpoint, rows, saved_steps
from runs import ended, launcher

STEPS, EVERY = 80, 8
TRAIN = {"steps": STEPS, "checkpoint_every": EVERY, "evaluate_every": 2 * EVERY, "log_every": 1}


def kill_somewhere(process, workdir, chance, seconds):
    """Kills the process at a random moment; returns where, or None when it had ended before."""
    where = chance.choices(["any time", "step", "save"], [1, 1, 2])[0]
    deadline = time.monotonic() + (chance.uniform(0, seconds) if where == "any time" else 600)
    rows_before, wanted = len(rows(workdir)), chance.randint(1, 6)
    seen = set()
    while process.is_alive() and time.monotonic() < deadline:
        if where == "step" and len(rows(workdir)) >= rows_before + wanted:
            deadline = time.monotonic() + chance.uniform(0, 0.06)
            where = "between steps"
        if where == "save":
            seen |= {p.name for p in (workdir / "checkpoints").glob("*tmp*")}
            if len(seen) >= min(wanted, 3):
                deadline = time.monotonic() + chance.uniform(0, 0.05)
                where = "in a save"
        time.sleep(0.002)
    process.kill()
    if ended(process) != -signal.SIGKILL:
        return None
    unfinished = list((workdir / "checkpoints").glob("*tmp*"))
    return "unfinished save left" if unfinished else where


def check_newest(workdir, like):
    """The newest checkpoint must be whole; returns its step (0: none yet)."""
    from lagseg_jax.runs.checkpoint import Checkpoints

    steps = saved_steps(workdir)
    if not steps:
        return 0
    record = workdir / "checkpoints" / str(steps[-1]) / "extra" / "metadata"
    encoder = json.loads(record.read_text())["encoder_sha256"]
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(workdir / "checkpoints", Path(copy) / "checkpoints")
        with Checkpoints(copy, encoder) as checkpoints:
            state, _ = checkpoints.restore_newest(like)
        damaged = list((Path(copy) / "checkpoints").glob("*.damaged"))
    assert int(state.step) == steps[-1] and not damaged, (steps, damaged)
    return steps[-1]


def state_like(root):
    """A state of the tiny config, whose values do not count."""
    import jax

    from lagseg_jax.model.encoder import EncoderSpec
    from lagseg_jax.model.segmentation import build_model
    from lagseg_jax.runtime.devices import replicate
    from lagseg_jax.training.optimizer import make_optimizer
    from lagseg_jax.training.step import init_state

    config = tiny_run.config(root, **TRAIN)
    model = build_model(config, EncoderSpec(config.encoder.variant))
    params = model.init_head(jax.random.key(0), config.data.image_size)
    return replicate(init_state(params, make_optimizer(config.train)))


def same(workdir, reference):
    """Parameters, optimiser and logged values, bit for bit."""
    import jax
    import numpy as np

    a, b = (raw_checkpoint(w, STEPS) for w in (workdir, reference))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    speed = {"slices_per_second": 0}
    assert [r | speed for r in rows(workdir)] == [r | speed for r in rows(reference)]


def run_trials(folder, trials, seed=0):
    """Kills that often; returns the counts."""
    folder, chance = Path(folder), random.Random(seed)
    root, log, start = tiny_run.write_phantom(folder), folder / "log.txt", launcher(folder)
    reference = folder / "reference"
    begun = time.monotonic()
    assert ended(start(reference, root, log, **TRAIN)) == 0, log.read_text()[-3000:]
    seconds = time.monotonic() - begun
    like, counts, kills, lost = state_like(root), collections.Counter(), 0, []
    while kills < trials:
        workdir = folder / f"run_{counts['runs ended, equal bit for bit']}"
        while True:
            process = start(workdir, root, log, **TRAIN)
            where = None
            if kills < trials:
                where = kill_somewhere(process, workdir, chance, seconds)
            if where is None:
                assert ended(process) == 0, log.read_text()[-3000:]
                break
            kills += 1
            counts[where] += 1
            reached = max((row["step"] for row in rows(workdir)), default=0)
            newest = check_newest(workdir, like)
            assert reached - newest <= EVERY, (reached, newest)
            lost.append(reached - newest)
            print(f"kill {kills}: {where}, step {reached} reached, checkpoint {newest}", flush=True)
        same(workdir, reference)
        counts["runs ended, equal bit for bit"] += 1
    counts["kills"] = kills
    counts["restorable after the kill"] = len(lost)
    counts[f"within the save interval of {EVERY} steps"] = len(lost)
    counts["most steps lost"] = max(lost)
    return counts


def main():
    """Prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = run_trials(folder, arguments.trials, arguments.seed)
    for name, count in counts.items():
        print(f"{name}: {count}")


if __name__ == "__main__":
    main()
