"""benchmarks.accuracy: the U-Net sees what ours see, learns in its time, and is judged as ours."""

import dataclasses
import importlib.util
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.accuracy.arms import configure
from benchmarks.accuracy.unet_cases import judge, read_cases, write_slices
from benchmarks.common import machine
from configs import default
from lagseg_jax.data.augment import Augmentation, augment, slice_keys
from lagseg_jax.imaging.masks import clean_mask

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the U-Net is in PyTorch"
)


def test_perfect_probabilities_of_the_peer_give_the_truth(options_for, split, tmp_path):
    """The way back to the volume's own grid, the component rule and the metrics."""
    cases = read_cases(configure(options_for(tmp_path), {}).data, 96, split)
    assert [c["name"] for c in cases["test"]] == [c.name for c in split["test"]]
    assert {c["images"].shape[1:] for c in cases["train"]} == {(96, 96)}
    probabilities = {c["name"]: c["masks"].astype(np.float16) for c in cases["test"]}
    np.savez(tmp_path / "p.npz", **probabilities)
    found = judge(tmp_path / "p.npz", cases["test"])
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
    assert judge(tmp_path / "p.npz", cases["test"]) == found
    half = {name: p * np.float16(0.49) for name, p in probabilities.items()}
    np.savez(tmp_path / "p.npz", **half)
    assert all(s["dice"] == 0 for s in judge(tmp_path / "p.npz", cases["test"]).values())


def test_the_peer_sees_images_of_a_multiple_of_16(options_for, split, tmp_path):
    cases = read_cases(configure(options_for(tmp_path), {}).data, None, split)  # 42 pixels
    assert cases["train"][0]["images"].shape[1:] == (48, 48)
    write_slices(tmp_path / "s.npz", cases)
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

    from benchmarks.accuracy import unet_worker
    from lagseg_jax.training.losses import slice_losses

    torch.manual_seed(0)
    network = unet_worker.UNet()
    parameters = sum(p.numel() for p in network.parameters())
    assert 1.9e6 < parameters < 2.0e6
    images, masks = torch.rand(2, 48, 32), (torch.rand(2, 48, 32) > 0.5).float()
    logits = unet_worker.logits_of(network, images)
    assert logits.shape == (2, 48, 32) and logits.dtype == torch.float32
    ours = slice_losses("bce+dice", logits.detach().numpy(), masks.numpy()).mean()
    assert unet_worker.LOSS(logits, masks).item() == pytest.approx(float(ours), rel=1e-5)
    # A bright square stays in its mask.
    image = torch.zeros(3, 64, 64)
    image[:, 20:40, 24:44] = 0.9
    strength = dict(default.get_config().augment)
    moved, mask = unet_worker.augment(strength, image, (image > 0).float())
    assert moved.min() >= 0 and moved.max() <= 1 and set(mask.unique().tolist()) == {0.0, 1.0}
    inside, outside = moved[mask == 1].mean(), moved[mask == 0].mean()
    assert inside > outside + 0.4
    assert not torch.equal(mask[0], mask[1])


@needs_torch
@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Augmentation)])
def test_the_unets_augmentation_is_ours(field):
    """One transformation at a time: over many draws, equal means and spreads."""
    import torch

    from benchmarks.accuracy import unet_worker

    off = dict.fromkeys((f.name for f in dataclasses.fields(Augmentation)), 0.0)
    strength = off | {field: 20.0 if field == "rotation_degrees" else 0.3}
    draws, size = 1500, 14
    image = np.random.default_rng(1).uniform(0.3, 0.5, (size, size)).astype(np.float32)
    image, mask = np.pad(image, 3), np.pad(np.ones((7, 9), np.float32), ((6, 7), (3, 8)))
    images, masks = (np.repeat(a[None], draws, axis=0) for a in (image, mask))
    torch.manual_seed(0)
    theirs = unet_worker.augment(strength, *map(torch.from_numpy, (images, masks)))
    keys = slice_keys(0, jnp.int32(0), jnp.arange(draws))
    for ours, found in zip(augment(Augmentation(**strength), keys, images, masks), theirs):
        ours, found = np.asarray(ours), found.numpy()
        np.testing.assert_allclose(found.mean(0), ours.mean(0), atol=0.04)
        for spread in (lambda a: a.std(0).mean(), lambda a: a.mean((1, 2)).std()):
            assert spread(found) == pytest.approx(spread(ours), rel=0.1, abs=1e-4)


@needs_torch
def test_the_unet_learns_in_its_time(options_for, split, tmp_path, monkeypatch):
    from benchmarks.accuracy import unet_worker

    cases = read_cases(configure(options_for(tmp_path), {}).data, None, split)
    write_slices(tmp_path / "slices.npz", cases)
    monkeypatch.setattr(machine, "cores", lambda: 1)  # threads would wait for other tests
    monkeypatch.setattr(unet_worker, "WARMUP", 5)
    clock = itertools.count()  # a second goes by whenever somebody looks
    monkeypatch.setitem(unet_worker.CLOCKS, "wall", lambda: next(clock))
    strength = dict(default.get_config().augment)
    facts = unet_worker.train(
        str(tmp_path), minutes=0.5, seed=1, clock="wall", augmentation=strength
    )
    assert facts["steps"] == 29 and facts["seconds"] == 31
    found = judge(tmp_path / "probabilities.npz", cases["test"])
    assert np.mean([s["dice"] for s in found.values()]) > 0.5
