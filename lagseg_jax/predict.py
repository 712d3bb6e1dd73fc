"""Predicts the atrium in MRI files: python -m lagseg_jax.predict --workdir RUN -i IN -o OUT.

Each mask has the geometry of its input, and appears under its final name only when it is complete.
A file that cannot be used is reported and the others go on; the exit status is then 2.
"""

import argparse
import sys
from pathlib import Path

from lagseg_jax.data.options import add_reading
from lagseg_jax.imaging.dicom_geometry import ALLOWED
from lagseg_jax.imaging.dicom_segmentation import check_segmentation_support
from lagseg_jax.imaging.mesh import SPACES, TRIANGLES, MeshOptions, check_mesh_support
from lagseg_jax.imaging.mesh_files import FORMATS
from lagseg_jax.imaging.orientation import check_orientation
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.slices import check_plane
from lagseg_jax.inference.files import plan_outputs
from lagseg_jax.inference.inputs import find_inputs
from lagseg_jax.inference.predict_files import predict_files
from lagseg_jax.inference.request import Request
from lagseg_jax.reports.review import write_prediction_review
from lagseg_jax.reports.review_case import write_case_page
from lagseg_jax.reports.verdicts import add_list_options, listed
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import exit_status, log, log_to_console
from lagseg_jax.runtime.errors import InputError, one_of
from lagseg_jax.runtime.processes import joined, once


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
        help="a .nii, .nii.gz or .nrrd file, a folder of them, a dataset, DICOM studies (or .zip)",
    )
    add_list_options(add)
    add(
        "--pattern",
        default="",
        help="files in the input folder and below: '*_image.nii.gz'; with a slash: not below",
    )
    add(
        "--images",
        default="",
        metavar="PATTERN",
        help="the same as config.data.images of training: one wildcard that names the case, or CSV",
    )
    add(
        "--series",
        default="",
        metavar="NUMBER|UID|PATTERN",
        help="of a DICOM study, where the likeliest LGE is not meant: 7, or '*LGE*'; info lists it",
    )
    add("-o", "--output", required=True, help="folder for the masks")
    add("--weights", nargs="+", help="folder of the encoder weights, if they were moved")
    _add_masks(parser)
    _add_besides(parser)
    _add_reading(parser)
    add = parser.add_argument_group("continuing, and several processes").add_argument
    add(
        "--resume", action="store_true", help="skip cases whose files this model made of this input"
    )
    add("--coordinator_address", metavar="HOST:PORT", help="of the first of several processes")
    add("--num_processes", type=int, metavar="N", help="that share the cases, if not detected")
    add("--process_id", type=int, metavar="N", help="of this one, from 0")
    return _checked(parser.parse_args(arguments))


def _add_masks(parser: argparse.ArgumentParser) -> None:
    """The options for how masks are made of probabilities."""
    add = parser.add_argument_group("masks").add_argument
    add("--tta", action="store_true", help="average over in-plane mirrorings: 4 times the time")
    add(
        "--keep_components",
        type=int,
        metavar="K",
        help="connected components kept, largest first; 0 keeps all (default: as trained, 1)",
    )
    add(
        "--min_mm3",
        type=float,
        default=0.0,
        metavar="MM3",
        help="drop what is smaller (default: 0)",
    )


def _add_besides(parser: argparse.ArgumentParser) -> None:
    """The options for what is written besides the masks."""
    add = parser.add_argument_group("besides the masks").add_argument
    for name, about in {
        "--statistics": "statistics.csv and .json over all cases",
        "--preview": "a picture of each case: previews/CASE.png",
        "--save_probabilities": "probability maps on the input's grid: "
        "probabilities/CASE.nii.gz, float32",
        "--review": "review.html: every slice of each case in a browser, and a verdict for each",
        "--dicom_seg": "of DICOM series: a segmentation object for the PACS, "
        "segmentations/CASE.dcm",
        "--rtstruct": "of DICOM series: contours as an RT Structure Set, structures/CASE.dcm",
        "--scene": "scenes/CASE.mrml: all of it in place in 3D Slicer",
        "--mesh": "closed surface in scanner mm: meshes/CASE.stl",
    }.items():
        add(name, action="store_true", help=about)
    add("--mesh_format", default="stl", metavar="|".join(FORMATS), help="default: stl")
    add("--mesh_space", default="LPS", metavar="|".join(SPACES), help="default: LPS")
    about = f"about how many at most; 0: all (default: {TRIANGLES})"
    add("--mesh_triangles", type=int, default=TRIANGLES, metavar="N", help=about)


def _checked(options: argparse.Namespace) -> argparse.Namespace:
    one_of("--mesh_format", options.mesh_format, tuple(FORMATS))
    one_of("--mesh_space", options.mesh_space, SPACES)
    for name in ("keep_components", "min_mm3", "max_gb", "mesh_triangles"):
        if (value := getattr(options, name)) is not None and not value >= 0:
            raise InputError(f"--{name} is {value}, expected 0 or more")
    check_orientation("--orientation", options.orientation)
    check_plane("--plane", options.plane)
    options.allow = tuple(name for name in options.allow.split(",") if name)
    for name in options.allow:
        one_of("--allow", name, ALLOWED)
    return options


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """The options that say how files are read."""
    add = parser.add_argument_group("reading").add_argument
    add_reading(add)
    about = "cut volumes into axial, coronal or sagittal slices"
    add("--plane", default="", help=about)
    add(
        "--allow",
        default="",
        metavar="NAME[,NAME]",
        help=f"what DICOM series may have: {', '.join(ALLOWED)}",
    )


def main(arguments: list[str] | None = None) -> int:
    """Predicts; returns the exit status: 0; 2: an input could not be used; 1: the disk is full."""
    options = parse_arguments(arguments)
    log_to_console()
    if options.mesh:
        check_mesh_support()
    if options.dicom_seg:
        check_segmentation_support()
    folder = Path(options.output)
    inputs = find_inputs(
        Path(options.input), options.pattern, options.images, options.series, options.allow
    )
    chosen = listed(options, {one.name: one for one in inputs})
    mesh = MeshOptions(options.mesh_format, options.mesh_space, options.mesh_triangles)
    jobs = plan_outputs(
        list(chosen.values()),
        folder,
        preview=options.preview,
        probability=options.save_probabilities,
        mesh=mesh if options.mesh else None,
        segmentation=options.dicom_seg,
        structures=options.rtstruct,
        review=options.review,
        scene=options.scene,
    )
    for workdir in options.workdir:
        read_config(Path(workdir))  # refused before jax is loaded
    request = Request(
        workdirs=options.workdir,
        weights=options.weights,
        components=options.keep_components,
        min_mm3=options.min_mm3,
        tta=options.tta,
        reading=Reading.of(options),
        case_page=write_case_page if options.review else None,
        # Whatever shows remarks shows those about estimates, too.
        estimate=any((options.statistics, options.review, options.dicom_seg, options.rtstruct)),
    )
    with joined(options.coordinator_address, options.num_processes, options.process_id):
        failed, full = predict_files(jobs, folder, request, options.statistics, options.resume)
        once(write_prediction_review, folder, options.review)
    if options.review:
        log.info("every slice of every case: %s", folder / "review.html")
    if failed:
        log.error("%d of %d inputs could not be used", failed, len(jobs))
    if full:
        log.error("%d of them, or a part of their outputs, because the disk is full", full)
    return 2 if failed > full else 1 if full else 0


if __name__ == "__main__":
    sys.exit(exit_status(main, continues="--resume" in sys.argv))
