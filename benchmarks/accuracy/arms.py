"""The arms of the accuracy benchmark: what they change, and how one of them is trained."""

import argparse
import os
import sys
from pathlib import Path

import ml_collections

from benchmarks.accuracy.unet_cases import judge, read_cases, write_slices
from benchmarks.common.worker import Worker
from lagseg_jax.config.flags import parse_flags
from lagseg_jax.data.cases import Case
from lagseg_jax.evaluation.study import read_study
from lagseg_jax.reports.study_table import read_result

UNET = "U-Net"
Arms = dict[str, dict | None]  # {name: changes of the config}, None for the U-Net


def arguments_of(options: argparse.Namespace, changes: dict) -> list[str]:
    """The command line of one of our arms, from the name of the program on."""
    fields = [*options.set, *(f"{name}={value}" for name, value in changes.items())]
    fields += [f"data.root={Path(options.data).resolve()}", f"data.counts=({options.counts})"]
    return ["accuracy", f"--config={options.config}", *(f"--config.{field}" for field in fields)]


def configure(options: argparse.Namespace) -> ml_collections.ConfigDict:
    """The config that our arms change."""
    return parse_flags(arguments_of(options, {}), lambda values: None).config


def arms_of(
    options: argparse.Namespace, base: ml_collections.ConfigDict
) -> tuple[Arms, str | None]:
    """What is compared, and which arm is the reference."""
    arms: Arms = {Path(options.config).stem: {}}
    reference = None
    if options.study:
        study = read_study(options.study, base, [n for n in (options.arms or "").split(",") if n])
        arms, reference = dict(study["arms"]), study["reference"]
    if not options.no_peer:
        arms[UNET], reference = None, UNET
    return arms, reference


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


def run_job(
    options: argparse.Namespace,
    arms: Arms,
    split: dict[str, list[Case]],
    arm: str,
    seed: int,
    cores: list[int],
) -> dict:
    """Trains one arm in a process of its own on these cores; returns what `Record` keeps of it."""
    print(f"{arm}, seed {seed}, cores {cores}", file=sys.stderr, flush=True)
    folder = options.workdir / arm / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    changes = arms[arm]
    if changes is None:
        return _train_unet(options, split, folder, seed, cores)
    line = arguments_of(options, changes | {"seed": seed})
    facts = _train(options, "jax_worker", options.python, folder, cores, arguments=line)
    return facts | {"cases": read_result(folder, arm, -1, seed).cases}


def _train_unet(
    options: argparse.Namespace, split: dict, folder: Path, seed: int, cores: list[int]
) -> dict:
    config = configure(options)
    cases = read_cases(config.data, options.peer_size, split)
    slices, probabilities = folder / "slices.npz", folder / "probabilities.npz"
    write_slices(slices, cases)
    told = {"seed": seed, "augmentation": dict(config.augment)}
    facts = _train(options, "unet_worker", options.peer_python, folder, cores, **told)
    facts["cases"] = judge(probabilities, cases["test"])
    slices.unlink()
    probabilities.unlink()
    return facts


def _train(
    options: argparse.Namespace, module: str, python: str, folder: Path, cores: list[int], **told
) -> dict:
    limit = 180 * options.minutes + 1800
    told |= {"folder": str(folder.resolve()), "minutes": options.minutes, "clock": options.clock}
    with Worker(f"benchmarks.accuracy.{module}", python, folder / "log", cores) as worker:
        return worker.call("train", limit, **told)
