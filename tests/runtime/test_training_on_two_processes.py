"""Two processes train, evaluate and predict as one does, and write every file once."""

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import pod
import tiny_run
from pod import worker

STEPS = 20


def train(processes, devices, phantom, workdir, **environment):
    status, said = pod.run(
        processes,
        "lagseg_jax.main",
        f"--config=tests/helpers/tiny_run.py:{phantom}",
        f"--workdir={workdir}",
        f"--config.train.steps={STEPS}",
        "--config.train.evaluate_every=5",
        "--config.train.checkpoint_every=5",
        devices=devices,
        seconds=280,
        **environment,
    )
    assert status == 0, said


def continue_from(workdir, step, copy):
    """The run as if it had been stopped after this step."""
    shutil.copytree(workdir, copy)
    for folder in (copy / "checkpoints").iterdir():
        if folder.name.isdigit() and int(folder.name) > step:
            shutil.rmtree(folder)
    assert (copy / "checkpoints" / str(step)).is_dir()


def parameters(workdir):
    with ocp.PyTreeCheckpointer() as checkpointer:
        path = workdir / "checkpoints" / str(STEPS) / "state"
        tree = checkpointer.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(path, restore_args=as_numpy)["params"]


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()][1:]


def assert_equal_runs(workdir, reference):
    ours, theirs = rows_of(workdir), rows_of(reference)
    assert [row["step"] for row in ours] == list(range(1, STEPS + 1))
    within = {"loss": 1e-6, "validation_loss": 1e-6, "gradient_norm": 1e-6, "learning_rate": 1e-6}
    # A voxel whose probability is rounded to the other side of 0.5 is 2e-5 of this Dice.
    within["validation_dice"] = 1e-4
    for ours_at, theirs_at in zip(ours, theirs, strict=True):
        for name, tolerance in within.items():
            if name in theirs_at:
                np.testing.assert_allclose(ours_at[name], theirs_at[name], rtol=0, atol=tolerance)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)  # noqa: E731
    jax.tree.map(compare, parameters(workdir), parameters(reference))
    cases = [(w / "evaluation" / "per_case.csv").read_text() for w in (workdir, reference)]
    assert cases[0].count("\n") == 3 and cases[0] == cases[1]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """Environment in which every process notes the files that it puts into place."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "who = [a.split('=')[1] for a in sys.orig_argv if a.startswith('--process_id=')]\n"
        "if who:\n"
        f"    notes = open({str(folder)!r} + '/' + who[0], 'wb', buffering=0)\n"
        "    def note(event, args):\n"
        "        if event == 'os.rename':\n"
        "            notes.write(os.fsencode(args[1]) + b'\\n')\n"
        "    sys.addaudithook(note)\n"
    )
    return folder


def placed(audited, root):
    """What each process put into place below a folder."""
    lines = [(audited / str(index)).read_text().splitlines() for index in range(2)]
    return [[line for line in part if line.startswith(f"{root}/")] for part in lines]


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory, audited):
    """A finished run of 2 processes with 2 devices each, and who wrote what."""
    root = tmp_path_factory.mktemp("pod")
    phantom = tiny_run.write_phantom(root / "phantom")
    train(2, 2, phantom, root / "run", PYTHONPATH=str(audited))
    return root, phantom, placed(audited, root)


def test_losses_and_parameters_are_those_of_one_process(two_by_two, tmp_path):
    """Of 1 process x 4 devices; of 1 x 1 that continues the two; of two that continue the one."""
    root, phantom, _ = two_by_two
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        reference = pool.submit(train, 1, 4, phantom, tmp_path / "reference")
        continue_from(root / "run", 15, tmp_path / "one")
        one = pool.submit(train, 1, 1, phantom, tmp_path / "one")
        reference.result(), one.result()
    assert_equal_runs(root / "run", tmp_path / "reference")
    assert_equal_runs(tmp_path / "one", tmp_path / "reference")
    continue_from(tmp_path / "reference", 15, tmp_path / "two")
    train(2, 2, phantom, tmp_path / "two")
    assert_equal_runs(tmp_path / "two", tmp_path / "reference")


def test_every_file_is_written_once(two_by_two):
    root, _, (first, second) = two_by_two
    counts = Counter([*first, *second])
    assert counts and set(counts.values()) == {1}, counts.most_common(3)
    # The second process writes what it shares: decoded cases, masks and pages of test cases.
    kinds = {os.path.basename(os.path.dirname(path)) for path in second}
    assert kinds == {"cache", "masks", "review"}
    run = root / "run"
    for name in ("config.json", "splits.json", "metrics.jsonl", "evaluation/summary.json"):
        assert str(run / name) in first, name
    assert len(list((run / "evaluation" / "masks").iterdir())) == 2
    assert {"15", "20"} <= {p.name for p in (run / "checkpoints").iterdir()}
    partial = [p for p in root.rglob("*") if "tmp" in p.name or "writing" in p.name]
    assert not partial


def test_predicts_every_file_once(two_by_two, audited, tmp_path):
    root, phantom, _ = two_by_two
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for number in range(1, 6):
        source = phantom / "task2" / "train_data" / f"train_{number}" / "enhanced.nii.gz"
        shutil.copy(source, inputs / f"case_{number}.nii.gz")
    (inputs / "bad.nii.gz").write_bytes(b"not a volume")
    command = ["lagseg_jax.predict", "--workdir", str(root / "run"), "--statistics", "--resume"]
    command += ["-o", str(tmp_path / "masks"), "-i"]
    third = [sys.executable, "-m", *command, str(inputs / "case_3.nii.gz")]  # an earlier start
    subprocess.run(third, check=True, cwd=pod.ROOT, capture_output=True)
    command.append(str(inputs))
    status, said = pod.run(2, *command, devices=2, PYTHONPATH=str(audited))
    assert status == 2 and "bad.nii.gz" in said and "Traceback" not in said, said
    masks = [[p for p in part if p.endswith(".nii.gz")] for part in placed(audited, tmp_path)]
    expected = [str(tmp_path / "masks" / f"case_{number}.nii.gz") for number in (1, 2, 4, 5)]
    assert sorted(masks[0] + masks[1]) == expected and all(masks)
    table = (tmp_path / "masks" / "statistics.csv").read_text()
    assert all(f"case_{number}," in table for number in range(1, 6))


def test_a_reader_that_fails_in_one_process_ends_the_training_of_both(two_by_two, tmp_path):
    """In the middle of an epoch, the first process being the one that the others depend on."""
    _, phantom, _ = two_by_two
    arguments = ("train", phantom, tmp_path / "run", STEPS, 0, 8)
    status, said, _ = worker(*arguments, devices=2, seconds=200)
    assert status == 2 and "Traceback" not in said, said
    assert "error: /data/scan.nii.gz has 0 bytes" in said
    assert "process 0 has stopped: /data/scan.nii.gz has 0 bytes" in said
    assert (tmp_path / "run" / "checkpoints" / "5").is_dir()
