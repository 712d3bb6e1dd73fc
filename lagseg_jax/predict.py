"""MRI files -> mask files in the same geometry: python -m lagseg_jax.predict -i IN -o OUT.

Each mask appears under its final name only when it is complete. A file that cannot be used is
reported and the others go on; the exit status is then 2.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from lagseg_jax.imaging.dicom_geometry import ALLOWED
from lagseg_jax.imaging.mesh import check_mesh_support
from lagseg_jax.imaging.orientation import check_orientation
from lagseg_jax.imaging.slices import check_plane, to_slices
from lagseg_jax.imaging.volume import MAX_BYTES, case_name, read_volume, remarks
from lagseg_jax.inference.files import Input, Outputs, find_inputs, outputs_of
from lagseg_jax.inference.mask_statistics import describe, mask_statistics, write_statistics
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import exit_status, log, log_to_console, still
from lagseg_jax.runtime.errors import InputError, one_of
from lagseg_jax.runtime.processes import allgather, joined, process, share


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options.

    Raises:
        InputError: a number that cannot be.
    """
    parser = command_parser("predict", "Research use only.")
    add = parser.add_argument_group("model and scans").add_argument
    add("--workdir", required=True, nargs="+", help="folder of a training run; several: ensemble")
    add(
        *("-i", "--input"),
        required=True,
        help="a .nii, .nii.gz or .nrrd file, a folder of them, a dataset, folders of DICOM files",
    )
    add("-o", "--output", required=True, help="folder for the masks")
    add("--weights", nargs="+", help="folder of the encoder weights, if they were moved")
    add = parser.add_argument_group("masks").add_argument
    add("--tta", action="store_true", help="average over in-plane mirrorings: 4 times the time")
    add(
        "--keep_components",
        type=int,
        metavar="K",
        help="connected components kept, largest first; 0 keeps all (default: as trained, 1)",
    )
    add("--min_mm3", type=float, default=0.0, metavar="V", help="drop smaller components (mm3)")
    add = parser.add_argument_group("besides the masks").add_argument
    add("--statistics", action="store_true", help="statistics.csv and .json over all cases")
    add("--preview", action="store_true", help="a picture of each case: previews/CASE.png")
    add(
        "--save_probabilities",
        action="store_true",
        help="probability maps on the input's grid: probabilities/CASE.nii.gz, float32",
    )
    add("--mesh", action="store_true", help="surface in scanner mm (LPS): meshes/CASE.stl")
    add = parser.add_argument_group("reading").add_argument
    add(
        "--max_gb",
        type=float,
        default=MAX_BYTES / 1e9,
        help="refuse inputs of more GB when decoded (default: %(default)g)",
    )
    add(
        "--orientation",
        default="",
        help="of files that do not say it: sides the axes grow to, such as LPS; or sform, qform",
    )
    add("--plane", default="", help="cut volumes into axial, coronal or sagittal slices")
    add(
        "--allow",
        default="",
        metavar="NAME[,NAME]",
        help=f"what DICOM series may have: {', '.join(ALLOWED)}",
    )
    add = parser.add_argument_group("continuing, and several processes").add_argument
    add("--resume", action="store_true", help="skip cases whose files are all there already")
    add("--coordinator_address", metavar="HOST:PORT", help="of the first of several processes")
    add("--num_processes", type=int, help="that share the cases, where it is not detected")
    add("--process_id", type=int, help="of this one, from 0")
    options = parser.parse_args(arguments)
    for name in ("keep_components", "min_mm3", "max_gb"):
        if (value := getattr(options, name)) is not None and not value >= 0:
            raise InputError(f"--{name} is {value}, expected 0 or more")
    check_orientation("--orientation", options.orientation)
    check_plane("--plane", options.plane)
    options.allow = tuple(name for name in options.allow.split(",") if name)
    for name in options.allow:
        one_of("--allow", name, ALLOWED)
    return options


def plan(inputs: Sequence[Input], options: argparse.Namespace) -> dict[Input, Outputs]:
    """Where the files of each input go.

    Raises:
        InputError: the output folder is a file, or a mask would overwrite an input.
    """
    folder = Path(options.output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder for the masks")
    which = options.preview, options.save_probabilities, options.mesh
    jobs = {one: outputs_of(one, folder, *which) for one in inputs}
    for one, outputs in jobs.items():
        if outputs.mask.resolve() == one.source.resolve():
            raise InputError(
                f"{outputs.mask} would overwrite its input, expected another --output folder"
            )
    return jobs


def predict_cases(
    segmenter, jobs: dict[Input, Outputs], options: argparse.Namespace
) -> dict[Input, dict]:
    """Predicts and reports case after case; one is written while the next one is computed.

    Returns:
        The row of `mask_statistics` of every case that could be used.
    """
    rows, before = {}, None

    def finish(label: str, one: Input, future: Future) -> None:
        try:
            rows[one] = future.result()
            log.info("%s %s: %s", label, jobs[one].mask, describe(rows[one]))
        except InputError as error:
            log.error("%s error: %s", label, error)
        except OSError as error:
            log.error("%s error: %s cannot be written: %s", label, jobs[one].mask, error)

    with ThreadPoolExecutor(1) as writer:
        for number, (one, outputs) in enumerate(jobs.items(), 1):
            work: Callable[[], dict] | None = None  # the case before belongs to the writer now
            try:
                work = functools.partial(_write, outputs, *_compute(segmenter, one, options))
            except InputError as error:
                work = functools.partial(_fail, error)  # reported in its turn
            # At most one is in flight: this bounds the memory and keeps the order.
            if before is not None:
                finish(*before)
            before = f"{number}/{len(jobs)}", one, writer.submit(work)
        if before is not None:
            finish(*before)
    return rows


def _compute(segmenter, one: Input, options: argparse.Namespace) -> tuple:
    """What `_write` needs of one case."""
    with still(f"predicting {one.name}"):
        volume = one.read(int(options.max_gb * 1e9), options.orientation, options.allow)
        for remark in remarks(volume):
            log.warning("WARNING: %s: %s", one.source, remark)
        cut = to_slices(volume.array, volume.affine, segmenter.plane)[1]
        segmenter.check_plane(cut, str(one.source))
        geometry = volume.spacing, volume.affine
        threshold, probability = segmenter.config.predict.threshold, None
        if options.save_probabilities or options.mesh:
            probability = segmenter.predict_probability(volume.array, *geometry, options.tta)
            mask = (probability >= threshold).view("uint8")
        else:
            mask = segmenter.raw_mask(
                volume.array, *geometry, options.keep_components, tta=options.tta
            )
        if not options.preview:  # the grey values, the largest array, go; the shape stays
            volume = replace(volume, array=np.broadcast_to(mask.dtype.type(0), mask.shape))
        mask = segmenter.clean(mask, volume.affine, options.keep_components, options.min_mm3)
    note = " - random encoder" if segmenter.encoder.warning else ""
    return volume, mask, probability, threshold, note, segmenter.plane


def _write(
    outputs: Outputs, volume, mask, probability, threshold: float, note: str, plane: str
) -> dict:
    """Writes the files of one case; returns its statistics."""
    row = mask_statistics(mask, volume.affine) | {"remarks": "; ".join(remarks(volume))}
    title = f"{case_name(outputs.mask)}: {row['volume_ml']:.1f} mL{note}"
    outputs.write(volume, mask, probability, threshold, title, plane)
    return row


def _fail(error: Exception) -> NoReturn:
    raise error


def encoder_weights(options: argparse.Namespace) -> str:
    """Where the encoders of the runs come from; needs no jax."""
    origins = []
    for number, workdir in enumerate(options.workdir):
        encoder, moved = read_config(Path(workdir)).encoder, options.weights
        weights = moved[min(number, len(moved) - 1)] if moved else encoder.weights
        origins.append(weights or f"random (seed {encoder.seed})")
    return ", ".join(origins)


def run(jobs: dict[Input, Outputs], options: argparse.Namespace) -> int:
    """Predicts this process' share of the cases; returns how many failed in all processes."""
    # Shared first and filtered then: processes that start later would see other files.
    mine = {one: jobs[one] for one in share(list(jobs))}
    todo = mine
    if options.resume:
        todo = {one: outputs for one, outputs in mine.items() if not outputs.complete()}
        log.info("%d cases are there already, %d to do", len(mine) - len(todo), len(todo))
    rows = {}
    if todo:
        from lagseg_jax.inference.segmenter import load_segmenter

        segmenter = load_segmenter(options.workdir, options.weights)
        if options.plane:
            segmenter = replace(segmenter, plane=options.plane)
            log.warning("WARNING: --plane cuts all volumes into %s slices", options.plane)
        models, mirrorings = len(options.workdir), 4 if options.tta else 1
        if models * mirrorings > 1:
            log.info(
                "%d models, %d mirrorings: %d times the computing of one prediction",
                *(models, mirrorings, models * mirrorings),
            )
        if options.tta:
            log.warning(
                "WARNING: --tta shows the model mirrored hearts, which training never does; it "
                "cost 9 points of Dice with configs/cpu.py: compare both on labelled cases first"
            )
        Path(options.output).mkdir(parents=True, exist_ok=True)
        rows = predict_cases(segmenter, todo, options)
    failed = len(todo) - len(rows)
    if options.statistics:
        for one in mine.keys() - todo.keys():
            mask = read_volume(mine[one].mask, orientation=options.orientation)
            said = {"remarks": "; ".join(remarks(mask))}
            rows[one] = mask_statistics(mask.array, mask.affine) | said
    parts = allgather([failed, {one.name: row for one, row in rows.items()}])
    table = {name: row for _, part in parts for name, row in part.items()}
    if options.statistics and table and process()[0] == 0:
        ordered = [{"case": one.name, **table[one.name]} for one in jobs if one.name in table]
        about = {"workdirs": options.workdir, "encoder_weights": encoder_weights(options)}
        about |= {name: getattr(options, name) for name in ("orientation", "plane", "allow")}
        write_statistics(Path(options.output), ordered, about)
    return sum(count for count, _ in parts)


def main(arguments: list[str] | None = None) -> int:
    """Predicts; returns the exit status: 0, or 2 when an input could not be used."""
    options = parse_arguments(arguments)
    log_to_console()
    if options.mesh:
        check_mesh_support()
    jobs = plan(find_inputs(Path(options.input)), options)
    if not (options.resume and all(outputs.complete() for outputs in jobs.values())):
        for workdir in options.workdir:
            read_config(Path(workdir))  # refused before jax is loaded
    with joined(options.coordinator_address, options.num_processes, options.process_id):
        failed = run(jobs, options)
    if failed:
        log.error("%d of %d inputs could not be used", failed, len(jobs))
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(exit_status(main, continues="--resume" in sys.argv))
