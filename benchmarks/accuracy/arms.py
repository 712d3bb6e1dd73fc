"""The arms of the accuracy benchmark: what each is, and how one of them is trained."""

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import ml_collections

from benchmarks.accuracy import nnunet_cases, unet_cases
from benchmarks.common.worker import Worker
from lagseg_jax.config.flags import parse_flags
from lagseg_jax.data.run_split import load_split
from lagseg_jax.evaluation.study import read_study
from lagseg_jax.reports.study_table import read_result

OURS, UNET, NNUNET = "ours", "U-Net", "nnU-Net"
LOG = "log"
NNUNETS = ("2d", "3d_fullres", "3d_lowres")  # its configurations


@dataclasses.dataclass(frozen=True)
class Arm:
    """What is trained.

    Attributes:
        method: `OURS`, `UNET` or `NNUNET`.
        changes: of the config; the peers obey what it says of the data.
        configuration: of nnU-Net, one of `NNUNETS`.
        series: its name without the number of training patients: arms of a curve share it.
    """

    method: str
    changes: dict
    configuration: str = ""
    series: str = ""


def arguments_of(options: argparse.Namespace, changes: dict) -> list[str]:
    """The command line of one of our arms, from the name of the program on."""
    fields = [*options.set, *(f"{name}={value}" for name, value in changes.items())]
    fields += [f"data.root={Path(options.data).resolve()}", f"data.counts=({options.counts})"]
    return ["accuracy", f"--config={options.config}", *(f"--config.{field}" for field in fields)]


def configure(options: argparse.Namespace, changes: dict) -> ml_collections.ConfigDict:
    """The config of an arm."""
    return parse_flags(arguments_of(options, changes), lambda values: None).config


def arms_of(
    options: argparse.Namespace, base: ml_collections.ConfigDict
) -> tuple[dict[str, Arm], str | None]:
    """What is compared, by name, and which arm is the reference: a curve has none."""
    ours, reference = {Path(options.config.partition(":")[0]).stem: {}}, None
    if options.study:
        study = read_study(options.study, base, [n for n in (options.arms or "").split(",") if n])
        ours, reference = study["arms"], study["reference"]
    arms = {name: Arm(OURS, changes) for name, changes in ours.items()}
    if not options.no_peer:
        arms[UNET], reference = Arm(UNET, {}), UNET
    if options.nnunet_python:
        of_nnunet = {f"{NNUNET} {c}": Arm(NNUNET, {}, c) for c in options.nnunet}
        arms, reference = arms | of_nnunet, next(iter(of_nnunet))
    if not options.train_patients:
        return arms, reference
    return {
        f"{name}, {count} patients": dataclasses.replace(
            arm, changes=arm.changes | {"data.train_patients": count}, series=name
        )
        for count in options.train_patients
        for name, arm in arms.items()
    }, None


def core_slots(count: int) -> list[list[int]]:
    """The cores of this process in so many equal parts.

    Raises:
        SystemExit: there are fewer.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(cores):
        raise SystemExit(f"--side_by_side={count}, expected 1 to {len(cores)}, the cores here")
    each = len(cores) // count
    return [cores[i * each : (i + 1) * each] for i in range(count)]


def run_folder(options: argparse.Namespace, name: str, seed: int) -> Path:
    """Where a run of an arm works; its workers' stderr is in `LOG` there."""
    return (options.workdir / name / f"seed{seed}").resolve()


def run_job(
    options: argparse.Namespace,
    arms: dict[str, Arm],
    name: str,
    seed: int,
    cores: list[int],
    steps: int | None = None,
) -> dict:
    """Trains one arm in a process of its own on these cores; returns what `Record` keeps of it.

    `steps` are those that fit into the minutes, if that is known: ours then measures nothing.

    What an interrupted training left is removed first: its time would not be known.
    """
    print(f"{name}, seed {seed}, cores {cores}", file=sys.stderr, flush=True)
    folder = run_folder(options, name, seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    arm = arms[name]
    if arm.method == OURS:
        return _train_ours(options, arm, seed, folder, cores, steps)
    train = {UNET: _train_unet, NNUNET: _train_nnunet}[arm.method]
    return train(options, arm, seed, folder, cores)


def _train_ours(options, arm: Arm, seed: int, folder: Path, cores: list[int], steps) -> dict:
    line = arguments_of(options, arm.changes | {"seed": seed})
    with _worker("jax_worker", options.python, folder, cores) as worker:
        facts = worker.call("train", **_told(options, folder), arguments=line, steps=steps)
    result = read_result(folder, "", -1, seed)
    return facts | {"cases": result.cases, "training_cases": result.training_cases}


def _train_unet(options, arm: Arm, seed: int, folder: Path, cores: list[int]) -> dict:
    config = configure(options, arm.changes)
    split = load_split(config, folder)
    cases = unet_cases.read_cases(config.data, options.peer_size, split)
    slices, probabilities = folder / "slices.npz", folder / "probabilities.npz"
    unet_cases.write_slices(slices, cases)
    told = {"seed": seed, "augmentation": dict(config.augment)}
    with _worker("unet_worker", options.peer_python, folder, cores) as worker:
        facts = worker.call("train", **_told(options, folder), **told)
    found = unet_cases.judge(probabilities, cases["test"])
    slices.unlink()
    probabilities.unlink()
    return facts | {"cases": found, "training_cases": len(split["train"])}


def _train_nnunet(options, arm: Arm, seed: int, folder: Path, cores: list[int]) -> dict:
    config = configure(options, arm.changes)
    split = load_split(config, folder)
    told = {"dataset": nnunet_cases.NUMBER, "configuration": arm.configuration}
    limit = _told(options, folder)
    try:
        environment = nnunet_cases.write(split, config.data, folder)
        environment |= dict.fromkeys(("nnUNet_n_proc_DA", "nnUNet_def_n_proc"), str(len(cores)))
        with _worker("nnunet_worker", options.nnunet_python, folder, cores, environment) as worker:
            plan = worker.call("prepare", limit["timeout"], memory_gb=options.nnunet_memory, **told)
            facts = worker.call("train", **limit, seed=seed, **told)
    finally:
        nnunet_cases.remove(folder)
    found = nnunet_cases.judge(folder / "masks", split["test"], config.data)
    return facts | plan | {"cases": found, "training_cases": len(split["train"])}


def _worker(
    module: str,
    python: str,
    folder: Path,
    cores: list[int],
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Worker:
    return Worker(f"benchmarks.accuracy.{module}", python, folder / LOG, cores, environment)


def _told(options: argparse.Namespace, folder: Path) -> dict:
    """What every worker is told, and how long its answer is waited for."""
    limit = 180 * options.minutes + 1800
    limit *= 10 if options.clock == "cpu" else 1  # minutes of the arm; others may use its core
    told = {"folder": str(folder), "minutes": options.minutes, "clock": options.clock}
    return told | {"timeout": limit}
