"""benchmarks.accuracy: nnU-Net gets our cases and split, and our time; it is judged as ours."""

import importlib.util
import itertools
import json
import os
import sys
from unittest.mock import MagicMock

import numpy as np
import pytest

from benchmarks.accuracy import nnunet_cases
from benchmarks.accuracy.arms import Arm, configure, run_job
from benchmarks.common.worker import Worker, WorkerError
from lagseg_jax.evaluation.evaluate import read_labelled
from lagseg_jax.imaging.volume import write_mask

NNUNET_PYTHON = os.environ.get("NNUNET_PYTHON")  # an interpreter that has nnunetv2


class Stand:
    """In the place of the worker: masks of the truth with an island far away."""

    def __init__(self, module, python, log, cores, environment):
        assert module.endswith("nnunet_worker")
        self.environment, self.calls = environment, []
        Stand.last = self

    __enter__, __exit__ = Worker.__enter__, lambda *_: None

    def call(self, command, timeout, **told):
        self.calls.append((command, told))
        if command == "prepare":
            return {"batch": 2, "patch": [8, 8]}
        folder = nnunet_cases.Path(told["folder"])
        assert {p.name for p in folder.glob("nnUNet_raw/*/imagesTs/*")} == {
            f"{case.name}_0000.nii.gz" for case in Stand.split["test"]
        }
        (folder / "masks").mkdir()
        for case in Stand.split["test"]:
            image, label = read_labelled(case, Stand.data)
            mask = label.array.astype(np.uint8)
            assert not mask[:3, :3, 0].any()
            mask[:3, :3, 0] = 1
            write_mask(folder / "masks" / f"{case.name}.nii.gz", mask, image)
        return {"steps": 3}


def test_the_arm_with_a_stand_in(options_for, split, tmp_path, monkeypatch):
    """The split of its arm, the folders' names, the cleaning, and what is left behind."""
    options = options_for(tmp_path, "--nnunet_python=none", "--nnunet_memory=1", "--clock=cpu")
    Stand.split, Stand.data = split, configure(options, {}).data
    monkeypatch.setattr("benchmarks.accuracy.arms.Worker", Stand)
    seen = {}
    write = nnunet_cases.write

    def written(split, data, folder):
        found = write(split, data, folder)
        (path,) = folder.glob("nnUNet_preprocessed/*/splits_final.json")
        (seen["fold"],) = json.loads(path.read_text())
        return found

    monkeypatch.setattr(nnunet_cases, "write", written)
    arm = Arm("nnU-Net", {"data.train_patients": 2}, "2d")
    facts = run_job(options, {"arm": arm}, "arm", 1, [0])
    assert facts["training_cases"] == 2 and facts["batch"] == 2 and facts["steps"] == 3
    assert len(seen["fold"]["train"]) == 2
    assert set(seen["fold"]["train"]) < {case.name for case in split["train"]}
    assert seen["fold"]["val"] == [case.name for case in split["validation"]]
    assert [scores["dice"] for scores in facts["cases"].values()] == [1.0, 1.0]
    (_, prepared), (_, trained) = Stand.last.calls
    assert prepared == {"dataset": 501, "configuration": "2d", "memory_gb": 1.0}
    assert trained["seed"] == 1 and trained["clock"] == "cpu"
    assert Stand.last.environment["nnUNet_n_proc_DA"] == "1"
    folder = tmp_path / "arm" / "seed1"
    assert set(Stand.last.environment) > set(nnunet_cases.PLACES)
    assert not [p for p in folder.iterdir() if p.name.startswith("nnUNet_")]


def test_what_a_failed_training_leaves_is_its_log(options_for, tmp_path, monkeypatch):
    """Nothing of gigabytes stays, the user's own folders of nnU-Net are not touched."""
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("nnUNet_raw", str(own))

    class Fails(Stand):
        def call(self, command, timeout, **told):
            (nnunet_cases.Path(self.environment["nnUNet_results"]) / "half").touch()
            raise WorkerError("prepare: out of memory")

    monkeypatch.setattr("benchmarks.accuracy.arms.Worker", Fails)
    options = options_for(tmp_path, "--nnunet_python=none")
    with pytest.raises(WorkerError, match="out of memory"):
        run_job(options, {"arm": Arm("nnU-Net", {}, "2d")}, "arm", 0, [0])
    folder = tmp_path / "arm" / "seed0"
    assert not list(folder.glob("nnUNet_*")) and (folder / "splits.json").exists()
    assert not list(own.iterdir()) and os.environ["nnUNet_raw"] == str(own)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="nnU-Net is in PyTorch")
def test_its_trainer_stops_by_the_clock(monkeypatch):
    """The learning rate decays over the time that there is; one step is made in any case."""
    for module in (
        "nnunetv2.experiment_planning.plan_and_preprocess_api",
        "nnunetv2.inference.predict_from_raw_data",
        "nnunetv2.run.run_training",
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
    ):
        monkeypatch.setitem(sys.modules, module, MagicMock())
    from benchmarks.accuracy.nnunet_worker import fit

    class Network:
        def train(self):
            pass

    class Trainer:
        initial_lr, network = 0.01, Network()
        dataloader_train = itertools.repeat(None)

        def __init__(self):
            self.rates, self.optimizer = [], type("O", (), {"param_groups": [{}]})

        on_train_start = on_train_end = lambda self: None

        def train_step(self, batch):
            self.rates.append(self.optimizer.param_groups[0]["lr"])

    clock, trainer = itertools.count(), Trainer()
    steps, seconds = fit(trainer, 4, lambda: next(clock))
    assert (steps, seconds) == (4, 5)
    assert trainer.rates == pytest.approx([0.01 * (1 - n / 4) ** 0.9 for n in range(4)])
    assert fit(Trainer(), 1e-9, itertools.count().__next__)[0] == 1


@pytest.mark.skipif(not NNUNET_PYTHON, reason="NNUNET_PYTHON names no interpreter with nnunetv2")
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_nnunet_itself(options_for, tmp_path, configuration):
    """Plans, one step, and masks that can be judged; minutes on a CPU."""
    more = [f"--nnunet_python={NNUNET_PYTHON}", "--nnunet_memory=0.5", "--minutes=0.01"]
    more.append("--clock=cpu")
    options = options_for(tmp_path, *more)
    facts = run_job(options, {"arm": Arm("nnU-Net", {}, configuration)}, "arm", 0, [0])
    assert facts["steps"] >= 1 and facts["batch"] >= 2 and len(facts["cases"]) == 2
