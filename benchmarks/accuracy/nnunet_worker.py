"""The nnU-Net worker of the accuracy benchmark: its planner, trainer and predictor.

Everything is nnU-Net's own but for the end: its trainer stops when the time is over instead of
after 1000 epochs, its polynomial decay of the learning rate runs over that time, and its validation
after every epoch, which decides nothing, is left out. The folders come from the environment
variables nnUNet_raw, nnUNet_preprocessed and nnUNet_results, as ever.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    plan_experiment_dataset,
    preprocess_dataset,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from benchmarks.common import machine
from benchmarks.common.pytorch import DEVICE, use_all_cores, wait
from benchmarks.common.timing import CLOCKS

POWER = 0.9  # of the decay


def prepare(dataset: int, configuration: str, memory_gb: float | None) -> dict:
    """Plans and preprocesses, as `nnUNetv2_plan_and_preprocess` does.

    Args:
        dataset: its number.
        configuration: "2d" or "3d_fullres".
        memory_gb: of the GPU that the planner chooses batch and patch for; None: its default.

    Raises:
        ValueError: the planner makes no such configuration of these cases.
    """
    processes = machine.cores()
    extract_fingerprint_dataset(dataset, num_processes=processes, show_progress_bar=False)
    plans, _ = plan_experiment_dataset(dataset, gpu_memory_target_in_gb=memory_gb)
    if configuration not in plans["configurations"]:
        found = ", ".join(plans["configurations"])
        raise ValueError(f"nnU-Net plans {found} for these cases, not {configuration}")
    told = {"configurations": [configuration], "num_processes": [processes]}
    preprocess_dataset(dataset, **told, show_progress_bar=False)
    plan = plans["configurations"][configuration]
    return {"batch": plan["batch_size"], "patch": [int(side) for side in plan["patch_size"]]}


def train(
    dataset: int, configuration: str, folder: str, minutes: float, seed: int, clock: str
) -> dict:
    """Trains on fold 0 for so many minutes by the clock, start included.

    The masks of `imagesTs` go to `folder`/masks.
    """
    use_all_cores()
    if clock == "cpu":  # processes that augment would go uncounted; the planner takes no 0
        os.environ["nnUNet_n_proc_DA"] = "0"
    torch.manual_seed(seed)
    np.random.seed(seed)  # with which nnU-Net augments
    trainer = get_trainer_from_args(str(dataset), configuration, 0, device=DEVICE)
    steps, seconds = fit(trainer, 60 * minutes, CLOCKS[clock])
    predictor = nnUNetPredictor(device=DEVICE, allow_tqdm=False)
    model = trainer.output_folder_base
    predictor.initialize_from_trained_model_folder(model, (0,), "checkpoint_final.pth")
    images = sorted(Path(folder).glob("nnUNet_raw/Dataset*/imagesTs/*_0000.nii.gz"))
    masks = Path(folder) / "masks"
    masks.mkdir(exist_ok=True)
    outputs = [str(masks / image.name.removesuffix("_0000.nii.gz")) for image in images]
    now = CLOCKS[clock]
    start = now()
    predictor.predict_from_files_sequential([[str(image)] for image in images], outputs)
    return {
        "steps": steps,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in predictor.network.parameters()),
        "volume_seconds": (now() - start) / len(images),
        "warning": "",
        "versions": machine.versions(),
    }


def fit(trainer: nnUNetTrainer, seconds: float, now: Callable[[], float]) -> tuple[int, float]:
    """Trains for so long by the clock, at least one step; returns steps and seconds."""
    start, steps, part = now(), 0, 0.0
    trainer.on_train_start()
    trainer.network.train()
    while steps == 0 or part < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * max(0.0, 1 - part) ** POWER
        trainer.train_step(next(trainer.dataloader_train))
        steps += 1
        part = (now() - start) / seconds
    trainer.on_train_end()
    wait()
    return steps, now() - start


COMMANDS = {"prepare": prepare, "train": train}
