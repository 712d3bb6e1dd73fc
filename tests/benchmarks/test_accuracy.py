"""benchmarks.accuracy: both sides train for their time, and are judged by the same rules."""

import dataclasses
import importlib.util
import itertools
import json
import os
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import accuracy, accuracy_ours, nnunet_dataset
from benchmarks.worker import WorkerError
from configs import default
from lagseg_jax.data.augment import Augmentation, augment, slice_keys
from lagseg_jax.data.layouts import detect
from lagseg_jax.data.split import write_split
from lagseg_jax.imaging.masks import clean_mask
from lagseg_jax.imaging.volume import read_image_and_label
from lagseg_jax.runtime.errors import InputError

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the peer is in PyTorch"
)


def options_for(phantom, workdir, *more):
    arguments = [
        f"--data={phantom}",
        f"--workdir={workdir}",
        f"--config=tests/helpers/tiny_run.py:{phantom}",
    ]
    return accuracy.parse_arguments([*arguments, "--counts=3,1,2", "--minutes=0.05", *more])


@pytest.fixture(scope="module")
def split(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    return accuracy.load_split(accuracy.configure(options_for(phantom, folder)), folder)


def test_perfect_probabilities_of_the_peer_give_the_truth(phantom, split, tmp_path):
    """The way back to the volume's own grid, the component rule and the metrics."""
    cases = accuracy.read_cases(options_for(phantom, tmp_path, "--peer_size=96"), split)
    assert [c["name"] for c in cases["test"]] == [c.name for c in split["test"]]
    assert {c["images"].shape[1:] for c in cases["train"]} == {(96, 96)}
    probabilities = {c["name"]: c["masks"].astype(np.float16) for c in cases["test"]}
    np.savez(tmp_path / "p.npz", **probabilities)
    found = accuracy.judge(tmp_path / "p.npz", cases["test"])
    for case in cases["test"]:
        scores = found[case["name"]]
        assert scores["dice"] > 0.97 and scores["hd95_mm"] <= 2.5
        # A far, smaller island does not count: the same rule as in our prediction.
        assert clean_mask(case["truth"], case["spacing"]).sum() == case["truth"].sum()
    island = {name: p.copy() for name, p in probabilities.items()}
    for p in island.values():
        assert not p[0, :4, :4].any()
        p[0, :4, :4] = 1
    np.savez(tmp_path / "p.npz", **island)
    assert accuracy.judge(tmp_path / "p.npz", cases["test"]) == found
    half = {name: p * np.float16(0.49) for name, p in probabilities.items()}
    np.savez(tmp_path / "p.npz", **half)
    assert all(s["dice"] == 0 for s in accuracy.judge(tmp_path / "p.npz", cases["test"]).values())


def test_the_peer_sees_images_of_a_multiple_of_16(phantom, split, tmp_path):
    cases = accuracy.read_cases(options_for(phantom, tmp_path), split)  # 42 pixels
    assert cases["train"][0]["images"].shape[1:] == (48, 48)
    accuracy.write_slices(tmp_path / "s.npz", cases)
    with np.load(tmp_path / "s.npz") as arrays:
        assert (
            len(arrays["images"])
            == len(arrays["masks"])
            == sum(len(c["images"]) for c in cases["train"])
        )
        assert set(arrays.files) == {"images", "masks"} | {f"test/{c.name}" for c in split["test"]}


@needs_torch
def test_the_unet_and_its_loss_and_augmentation():
    import torch

    from benchmarks import accuracy_unet
    from lagseg_jax.training.losses import slice_losses

    torch.manual_seed(0)
    network = accuracy_unet.UNet()
    parameters = sum(p.numel() for p in network.parameters())
    assert 1.9e6 < parameters < 2.0e6
    images, masks = torch.rand(2, 48, 32), (torch.rand(2, 48, 32) > 0.5).float()
    logits = accuracy_unet.logits_of(network, images)
    assert logits.shape == (2, 48, 32) and logits.dtype == torch.float32
    ours = slice_losses("bce+dice", logits.detach().numpy(), masks.numpy()).mean()
    assert accuracy_unet.loss_of(logits, masks).item() == pytest.approx(float(ours), rel=1e-5)
    # A bright square stays in its mask.
    image = torch.zeros(3, 64, 64)
    image[:, 20:40, 24:44] = 0.9
    strength = dict(default.get_config().augment)
    moved, mask = accuracy_unet.augment(strength, image, (image > 0).float())
    assert moved.min() >= 0 and moved.max() <= 1 and set(mask.unique().tolist()) == {0.0, 1.0}
    inside, outside = moved[mask == 1].mean(), moved[mask == 0].mean()
    assert inside > outside + 0.4
    assert not torch.equal(mask[0], mask[1])


@needs_torch
@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Augmentation)])
def test_the_unets_augmentation_is_ours(field):
    """One transformation at a time: over many draws, equal means and spreads."""
    import torch

    from benchmarks import accuracy_unet

    off = dict.fromkeys((f.name for f in dataclasses.fields(Augmentation)), 0.0)
    strength = off | {field: 20.0 if field == "rotation_degrees" else 0.3}
    draws, size = 1500, 14
    image = np.random.default_rng(1).uniform(0.3, 0.5, (size, size)).astype(np.float32)
    image, mask = np.pad(image, 3), np.pad(np.ones((7, 9), np.float32), ((6, 7), (3, 8)))
    images, masks = (np.repeat(a[None], draws, axis=0) for a in (image, mask))
    torch.manual_seed(0)
    theirs = accuracy_unet.augment(strength, *map(torch.from_numpy, (images, masks)))
    keys = slice_keys(0, jnp.int32(0), jnp.arange(draws))
    for ours, found in zip(augment(Augmentation(**strength), keys, images, masks), theirs):
        ours, found = np.asarray(ours), found.numpy()
        np.testing.assert_allclose(found.mean(0), ours.mean(0), atol=0.04)
        for spread in (lambda a: a.std(0).mean(), lambda a: a.mean((1, 2)).std()):
            assert spread(found) == pytest.approx(spread(ours), rel=0.1, abs=1e-4)


@needs_torch
def test_the_unet_learns_in_its_time(phantom, split, tmp_path, monkeypatch):
    from benchmarks import accuracy_unet

    cases = accuracy.read_cases(options_for(phantom, tmp_path), split)
    accuracy.write_slices(tmp_path / "slices.npz", cases)
    clock = itertools.count()  # a second goes by whenever somebody looks
    monkeypatch.setitem(accuracy_unet.CLOCKS, "wall", lambda: next(clock))
    strength = dict(default.get_config().augment)
    facts = accuracy_unet.train(
        str(tmp_path), minutes=1.5, seed=1, clock="wall", augmentation=strength
    )
    assert facts["steps"] == 89 and facts["seconds"] == 91
    found = accuracy.judge(tmp_path / "probabilities.npz", cases["test"])
    assert np.mean([s["dice"] for s in found.values()]) > 0.3


def test_our_arms_are_ordinary_runs_with_affordable_steps(phantom, tmp_path, monkeypatch):
    monkeypatch.setattr(accuracy_ours, "SHORT", (1, 3))
    options = options_for(phantom, tmp_path, "--set=train.learning_rate=0.002")
    arguments = accuracy.arguments_of(options, {"seed": 3, "train.loss": "dice"})
    asked = []

    def steps(config, split, encoder, seconds, now):
        asked.append(affordable(config, split, encoder, seconds, now))
        return 4

    affordable = accuracy_ours.affordable_steps
    monkeypatch.setattr(accuracy_ours, "affordable_steps", steps)
    facts = accuracy_ours.train(arguments, str(tmp_path / "run"), minutes=0.5, clock="wall")
    assert asked[0] >= 1 and facts["steps"] == 4 and "random" in facts["warning"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["seed"] == 3 and config["train"]["loss"] == "dice"
    assert config["train"]["learning_rate"] == 0.002 and config["train"]["steps"] == 4
    split = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert [len(split[part]) for part in ("train", "validation", "test")] == [3, 1, 2]
    result = accuracy.read_result(tmp_path / "run", "x", -1, 3)
    assert set(result.cases) == set(split["test"])


def test_affordable_steps_by_hand(phantom, tmp_path, monkeypatch):
    """A start of 10 s and steps of 2 s: 100 s are enough for 45; 5000 s need a longer trial."""
    clock, trials = [0.0], []

    def run(config, workdir, split, encoder):
        clock[0] += 10 + 2 * config.train.steps
        trials.append(config.train.steps)

    monkeypatch.setattr(accuracy_ours, "train_run", run)
    config = accuracy.configure(options_for(phantom, tmp_path))
    assert accuracy_ours.affordable_steps(config, {}, None, 100, lambda: clock[0]) == 45
    assert accuracy_ours.affordable_steps(config, {}, None, 5, lambda: clock[0]) == 1
    trials.clear()
    assert accuracy_ours.affordable_steps(config, {}, None, 5000, lambda: clock[0]) == 2495
    assert trials == [1, 4, 44, 124]


def test_the_record_goes_on_and_names_what_failed(phantom, tmp_path, monkeypatch, capsys):
    study = tmp_path / "study.py"
    study.write_text(
        "def get_study(config):\n"
        "    arms = {'a': {'train.loss': 'bce'}, 'b': {'train.loss': 'dice'}}\n"
        "    return {'title': 't', 'reference': 'a', 'arms': arms}\n"
    )
    calls, broken = [], {"b"}

    def job(options, arms, split, arm, seed, cores):
        calls.append((arm, seed))
        if arm in broken:
            raise WorkerError("train: the worker ended")
        value = {"a": 0.8, "b": 0.9, "U-Net": 0.7}[arm] + seed / 100
        scores = {m: value for m in accuracy.METRICS}
        facts = {"steps": 7, "seconds": 60.0, "parameters": 10**6, "volume_seconds": 2.0}
        names = [case.name for case in split["test"]]
        return facts | {"warning": "", "versions": {}, "cases": {n: scores for n in names}}

    monkeypatch.setattr(accuracy, "run_job", job)
    arguments = [f"--data={phantom}", f"--workdir={tmp_path / 'w'}", "--counts=3,1,2"]
    arguments += [f"--config=tests/helpers/tiny_run.py:{phantom}", f"--study={study}"]
    assert accuracy.main(arguments) == 1
    table = capsys.readouterr().out
    assert "| b, seed 1" not in table and "Incomplete: 2 of 6" in table
    assert set(calls) == {(a, s) for a in ("a", "b", "U-Net") for s in (0, 1)}
    calls.clear()
    broken.clear()
    assert accuracy.main(arguments) == 0
    table = capsys.readouterr().out
    assert "0.9050" in table and "+0.2000" in table and "Incomplete" not in table
    assert calls == [("b", 0), ("b", 1)]  # only what was missing
    with pytest.raises(InputError, match=r"runs\.json is of other options"):
        accuracy.main([*arguments, "--minutes=20"])
    assert accuracy.main([*arguments, "--no_peer"]) == 0
    table = capsys.readouterr().out
    assert "Dice - a" in table and "+0.1000" in table and "U-Net" not in table.split("| run |")[0]


def test_cores_are_divided_equally(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6, 9})
    assert accuracy.core_slots(1) == [[3, 5, 6, 9]]
    assert accuracy.core_slots(2) == [[3, 5], [6, 9]]
    with pytest.raises(SystemExit, match="expected 1 to 4"):
        accuracy.core_slots(5)


def test_the_cpu_clock_needs_one_core_per_arm(phantom, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    options = [f"--data={phantom}", f"--workdir={tmp_path}", "--counts=3,1,2", "--clock=cpu"]
    with pytest.raises(SystemExit, match="side_by_side"):
        accuracy.main([*options, f"--config=tests/helpers/tiny_run.py:{phantom}"])


def test_a_worker_keeps_to_its_cores(tmp_path):
    from benchmarks.worker import Worker

    core = min(os.sched_getaffinity(0))
    worker = Worker("benchmarks.machine", sys.executable, tmp_path / "log", [core])
    try:
        assert worker.call("cores") == 1
    finally:
        worker.close()


def test_nnunets_folder_has_the_same_cases_and_voxels(phantom, split, tmp_path):
    write_split(tmp_path / "splits.json", {p: [c.name for c in split[p]] for p in split})
    output = tmp_path / "Dataset501_LeftAtrium"
    command = [f"--data={phantom}", f"--split={tmp_path / 'splits.json'}", f"--output={output}"]
    assert nnunet_dataset.main(command) == 0
    found = detect(output)
    assert found.layout == "nnU-Net raw" and found.unlabelled == len(split["test"])
    training = {case.name: case for case in split["train"] + split["validation"]}
    assert {case.name for case in found.cases} == set(training)
    for case in found.cases:
        truth = training[case.name]
        image, label = read_image_and_label(case.image, case.label)
        expected = read_image_and_label(truth.image, truth.label)
        for one, other in zip((image, label), expected):
            np.testing.assert_array_equal(one.array, other.array)
            np.testing.assert_allclose(one.affine, other.affine)
    (fold,) = json.loads((output / "splits_final.json").read_text())
    assert fold == {
        "train": [case.name for case in split["train"]],
        "val": [case.name for case in split["validation"]],
    }
    with pytest.raises(InputError, match="is there, expected the name of a new folder"):
        nnunet_dataset.main(command)
