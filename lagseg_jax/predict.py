"""MRI files -> mask files in the same geometry: python -m lagseg_jax.predict -i IN -o OUT.

Each mask appears under its final name only when it is complete. A file that cannot be used is
reported and the others go on; the exit status is then 2.
"""

import argparse
import sys
from pathlib import Path

from lagseg_jax.errors import InputError
from lagseg_jax.logs import exit_status, log, log_to_console
from lagseg_jax.volume import SUFFIXES, is_volume_file


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m lagseg_jax.predict",
        description="Segments the left atrium in LGE-MRI volumes (research use only).",
    )
    parser.add_argument("--workdir", required=True, help="folder of a training run")
    parser.add_argument(
        "-i", "--input", required=True, help="a .nii, .nii.gz or .nrrd file, or a folder of them"
    )
    parser.add_argument("-o", "--output", required=True, help="folder for the masks")
    parser.add_argument("--weights", help="folder of the encoder weights, if they were moved")
    parser.add_argument(
        "--keep_components",
        type=int,
        metavar="K",
        help="connected components kept, largest first; 0 keeps all (default: as trained, 1)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="skip inputs whose mask is there already"
    )
    return parser.parse_args(arguments)


def find_inputs(path: Path) -> list[Path]:
    """The volume files at `path`: itself, or those of the folder (not of its subfolders).

    Raises:
        InputError: nothing is there, or the folder holds no volume file.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} does not exist, expected a volume file or a folder of them")
    files = sorted(f for f in path.iterdir() if is_volume_file(f))
    if not files:
        endings = ", ".join(SUFFIXES)
        raise InputError(f"{path} has no volume files, expected some that end in {endings}")
    return files


def output_paths(files: list[Path], folder: Path) -> list[Path]:
    """Where the mask of each input goes: its own name, in the output folder.

    Raises:
        InputError: a mask would overwrite its own input.
    """
    outputs = [folder / file.name for file in files]
    for file, output in zip(files, outputs):
        if output.resolve() == file.resolve():
            raise InputError(
                f"{output} would overwrite its input, expected another --output folder"
            )
    return outputs


def predict_files(segmenter, files: list[Path], outputs: list[Path], components: int | None) -> int:
    """Predicts every file; returns the number of files that could not be used."""
    from lagseg_jax.metrics import volume_ml
    from lagseg_jax.volume import read_volume, write_mask

    failures = 0
    for number, (file, output) in enumerate(zip(files, outputs), 1):
        try:
            volume = read_volume(file)
            mask = segmenter.predict_volume(
                volume.array, volume.spacing, volume.affine, components=components
            )
            write_mask(output, mask, volume)
        except InputError as error:
            failures += 1
            log.error("%d/%d error: %s", number, len(files), error)
            continue
        millilitres = volume_ml(mask, volume.spacing)
        note = "" if mask.any() else " WARNING: nothing was found"
        log.info("%d/%d %s: %.1f mL%s", number, len(files), output, millilitres, note)
    return failures


def main(arguments: list[str] | None = None) -> int:
    """Predicts; returns the exit status: 0, or 2 when an input could not be used."""
    options = parse_arguments(arguments)
    log_to_console()
    files = find_inputs(Path(options.input))
    folder = Path(options.output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder for the masks")
    pairs = list(zip(files, output_paths(files, folder)))
    if options.resume:
        finished = [pair for pair in pairs if pair[1].exists()]
        pairs = [pair for pair in pairs if not pair[1].exists()]
        log.info("%d masks are there already, %d to do", len(finished), len(pairs))
    if not pairs:
        return 0
    from lagseg_jax.segmenter import load_segmenter

    segmenter = load_segmenter(options.workdir, options.weights)
    folder.mkdir(parents=True, exist_ok=True)
    failures = predict_files(segmenter, *map(list, zip(*pairs)), options.keep_components)
    if failures:
        log.error("%d of %d inputs could not be used", failures, len(pairs))
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
