r"""dataset, minutes -> accuracy of ours and of a U-Net in PyTorch that trained equally long.

    python -m benchmarks.accuracy --data=DATASET --minutes=10 --seeds=2 --workdir=runs/accuracy

Every arm trains on the same cases, for the same time on the same cores (compilation, validation and
checkpoints included), and is judged on the same held-out cases, whole volumes in their own grid, by
lagseg_jax.metrics. Ours are runs of `--config`, and of the arms of a study file (see
lagseg_jax.study) as changes of it; with their steps chosen by a measurement before. The U-Net sees
slices prepared in the same way and augmented as `--config` says, and its masks are cleaned in the
same way. The same command goes on where it was interrupted. WORKDIR gets table.md, table.csv,
study.json and runs.json.
"""

import argparse
import os
import queue
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_collections
import numpy as np
from benchmarks.accuracy_record import Record
from benchmarks.worker import Worker, WorkerError

from lagseg_jax.config.flags import parse_flags
from lagseg_jax.data.layouts import Case
from lagseg_jax.data.split import load_split
from lagseg_jax.evaluation.metrics import case_metrics
from lagseg_jax.evaluation.study import read_study
from lagseg_jax.imaging.masks import clean_mask
from lagseg_jax.imaging.slices import (
    from_slices,
    network_images,
    network_masks,
    restore_matrices,
    to_slices,
)
from lagseg_jax.imaging.volume import read_image_and_label
from lagseg_jax.reports.study_table import METRICS, read_result

PEER = "U-Net"
PEER_MULTIPLE = 16  # of its image size: four times halved


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__.split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="dataset folder")
    add("--workdir", type=Path, required=True, help="of all runs and the table")
    add("--config", default="configs/cpu.py", help="ours")
    add("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="changes of it")
    add("--study", help="its arms take the place of the config as it is")
    add("--arms", help="only these arms, separated by commas")
    add("--no_peer", action="store_true", help="leave the U-Net out")
    add("--minutes", type=float, default=10.0, help="of training, of every arm")
    add("--seeds", type=int, default=2, help="runs of every arm")
    add("--counts", default="14,2,8", help="training, validation and test patients")
    add("--peer_size", type=int, help="of the U-Net's images (default: ours or the next above)")
    add("--side_by_side", type=int, default=1, help="arms at a time, each on its share of cores")
    about = "wall: minutes go by; cpu: only those in which the arm computes, on one core each"
    add("--clock", choices=("wall", "cpu"), default="wall", help=about)
    add("--python", default=sys.executable, help="interpreter that has jax")
    add("--peer_python", default=sys.executable, help="interpreter that has torch")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Trains and judges what is not there yet; returns 1 if a run failed."""
    options = parse_arguments(arguments)
    options.workdir.mkdir(parents=True, exist_ok=True)
    base = configure(options)
    arms, reference = arms_of(options, base)
    split = load_split(base, options.workdir)
    slots = core_slots(options.side_by_side)
    if options.clock == "cpu" and len(slots[0]) > 1:
        raise SystemExit("--clock=cpu is for arms on one core each: give --side_by_side=CORES")
    jobs = [(arm, seed) for seed in range(options.seeds) for arm in arms]
    record = Record(options, arms, reference)
    free: queue.Queue[list[int]] = queue.Queue()
    for slot in slots:
        free.put(slot)

    def run(job: tuple[str, int]) -> None:
        cores = free.get()
        try:
            record.add(*job, run_job(options, arms, split, *job, cores))
        except WorkerError as error:
            record.failed(*job, str(error))
        finally:
            free.put(cores)

    with ThreadPoolExecutor(len(slots)) as pool:
        list(pool.map(run, [job for job in jobs if not record.has(*job)]))
    print(record.write())
    return 1 if record.failures else 0


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
) -> tuple[dict[str, dict | None], str | None]:
    """{name: changes of the config}, None for the U-Net; and which arm is the reference."""
    arms: dict[str, dict | None] = {Path(options.config).stem: {}}
    reference = None
    if options.study:
        study = read_study(options.study, base, [n for n in (options.arms or "").split(",") if n])
        arms, reference = dict(study["arms"]), study["reference"]
    if not options.no_peer:
        arms[PEER], reference = None, PEER
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
    arms: dict[str, dict | None],
    split: dict[str, list[Case]],
    arm: str,
    seed: int,
    cores: list[int],
) -> dict:
    """Trains one arm in a process of its own on these cores; returns what `Record` keeps of it."""
    folder = options.workdir / arm / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    changes = arms[arm]
    peer = changes is None
    module, python = (
        ("accuracy_unet", options.peer_python) if peer else ("accuracy_ours", options.python)
    )
    print(f"{arm}, seed {seed}, cores {cores}", file=sys.stderr, flush=True)
    if peer:
        cases = read_cases(options, split)
        write_slices(folder / "slices.npz", cases)
        augmentation = dict(configure(options).augment)
        arguments = {"folder": str(folder.resolve()), "seed": seed, "augmentation": augmentation}
    else:
        line = arguments_of(options, changes | {"seed": seed})
        arguments = {"arguments": line, "workdir": str(folder.resolve())}
    worker = Worker(f"benchmarks.{module}", python, folder / "log", cores)
    try:
        limit = 180 * options.minutes + 1800
        facts = worker.call(
            "train", limit, minutes=options.minutes, clock=options.clock, **arguments
        )
    finally:
        worker.close()
    if peer:
        facts["cases"] = judge(folder / "probabilities.npz", cases["test"])
        (folder / "slices.npz").unlink()
        (folder / "probabilities.npz").unlink()
    else:
        facts["cases"] = read_result(folder, arm, -1, seed).cases
    return facts


def read_cases(options: argparse.Namespace, split: dict[str, list[Case]]) -> dict[str, list[dict]]:
    """Slices of the training and test cases as the U-Net gets them: images, masks, geometry."""
    config = configure(options)
    size = options.peer_size or -(-config.data.image_size // PEER_MULTIPLE) * PEER_MULTIPLE
    found: dict[str, list[dict]] = {}
    for part in ("train", "test"):
        for case in split[part]:
            image, label = read_image_and_label(
                case.image,
                case.label,
                config.data.label_value or None,
                int(config.data.max_gb * 1e9),
            )
            slices, geometry = to_slices(image.array, image.affine)
            labels, _ = to_slices(label.array, label.affine)
            found.setdefault(part, []).append(
                {
                    "name": case.name,
                    "images": network_images(slices, size, tuple(config.data.clip_percentiles)),
                    "masks": network_masks(labels, size),
                    "truth": label.array,
                    "spacing": image.spacing,
                    "geometry": geometry,
                    "shape": slices.shape[1:],
                }
            )
    return found


def write_slices(path: Path, cases: dict[str, list[dict]]) -> None:
    """What the PyTorch worker reads: it needs no other library than NumPy for it."""
    arrays = {f"test/{case['name']}": case["images"].astype(np.float16) for case in cases["test"]}
    for name, dtype in (("images", np.float16), ("masks", np.uint8)):
        arrays[name] = np.concatenate([case[name].astype(dtype) for case in cases["train"]])
    np.savez(path, **arrays)


def judge(path: Path, cases: list[dict]) -> dict[str, dict[str, float]]:
    """Probabilities (Z, S, S) of the test cases -> the metrics, by the rules of our prediction."""
    found = {}
    with np.load(path) as probabilities:
        for case in cases:
            probability = probabilities[case["name"]].astype(np.float32)
            rows, columns = restore_matrices(*case["shape"], probability.shape[1])
            slices = (rows @ probability @ columns.T >= 0.5).astype(np.uint8)
            mask = clean_mask(from_slices(slices, case["geometry"]), case["spacing"], keep=1)
            axis = case["geometry"].volume_axis
            scores = case_metrics(case["truth"], mask, case["spacing"], axis)
            found[case["name"]] = {metric: float(scores[metric]) for metric in METRICS}
    return found


if __name__ == "__main__":
    sys.exit(main())
