"""Says where the files of each predicted case go, and writes them."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.mesh import atrium_surface, write_stl
from lagseg_jax.imaging.overlay import write_overlay
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.volume import write_mask, write_voxels
from lagseg_jax.inference.inputs import Input
from lagseg_jax.inference.records import FOLDER, is_recorded
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import check_writable


@dataclass(frozen=True)
class Prediction:
    """One case, in its own voxel order.

    Attributes:
        volume: the image; only a preview needs its grey values.
        mask: (x, y, z) uint8.
        probability: (x, y, z) float32, where it is wanted.
        input_hash: `records.content_hash` of what was read.
    """

    volume: Volume
    mask: np.ndarray
    probability: np.ndarray | None
    input_hash: str = ""


@dataclass(frozen=True)
class Outputs:
    """Where the files of one case go; None for those that nobody asked for."""

    mask: Path
    preview: Path | None = None
    probability: Path | None = None
    mesh: Path | None = None

    def paths(self) -> list[Path]:
        """Those that were asked for."""
        return [p for p in (self.mask, self.preview, self.probability, self.mesh) if p is not None]

    def complete(self) -> bool:
        """Whether all of them are there; each appears under its name only when it is complete."""
        return all(path.exists() for path in self.paths())

    def write(
        self, done: Prediction, threshold: float, title: str, plane: str = ""
    ) -> dict[Path, OSError]:
        """Writes the mask, then what else was asked for, which never costs a mask.

        Args:
            done: with a probability, where map or mesh was asked for.
            threshold: of the probability in the mask.
            title: above the preview.
            plane: of the slices in the preview, as in `slices.to_slices`.

        Returns:
            What could not be written besides the mask, and why.

        Raises:
            OSError: no space or permission for the mask.
        """
        volume, mask, probability = done.volume, done.mask, done.probability

        def preview(path: Path) -> None:
            image, drawn = (to_slices(a, volume.affine, plane)[0] for a in (volume.array, mask))
            write_overlay(path, image, None, drawn, title)

        def mesh(path: Path) -> None:
            assert probability is not None
            write_stl(path, atrium_surface(mask, probability, threshold, volume.affine))

        def probabilities(path: Path) -> None:
            assert probability is not None
            write_voxels(path, probability, volume)

        self.mask.parent.mkdir(parents=True, exist_ok=True)
        write_mask(self.mask, mask, volume)
        failed = {}
        others = (self.probability, probabilities), (self.mesh, mesh), (self.preview, preview)
        for path, write in others:
            if path is not None:
                try:
                    path.parent.mkdir(exist_ok=True)
                    write(path)
                except OSError as error:
                    failed[path] = error
                    with contextlib.suppress(OSError):
                        path.unlink()  # of an earlier call: another mask's
        return failed


def plan_outputs(
    inputs: Sequence[Input],
    folder: Path,
    preview: bool = False,
    probability: bool = False,
    mesh: bool = False,
) -> dict[Input, Outputs]:
    """The mask of each in `folder`; the rest in `previews`, `probabilities` and `meshes` in it.

    Raises:
        InputError: the folder cannot be written to, or an output would replace an input, a label
            of a dataset, or another file that `predict` did not make.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder for the masks")
    for name in ("", "previews", "probabilities", "meshes", FOLDER):
        check_writable(folder / name, "an --output folder that can")
    given = {path.resolve() for one in inputs for path in (one.source, one.label) if path}
    if folder.resolve() in {one.label.resolve().parent for one in inputs if one.label}:
        raise InputError(f"{folder} has the dataset's labels, expected another --output folder")
    jobs = {}
    for one in inputs:
        jobs[one] = Outputs(
            folder / one.mask_name,
            folder / "previews" / f"{one.name}.png" if preview else None,
            folder / "probabilities" / f"{one.name}.nii.gz" if probability else None,
            folder / "meshes" / f"{one.name}.stl" if mesh else None,
        )
        for path in jobs[one].paths():
            if path.resolve() in given:
                raise InputError(
                    f"{path} would overwrite its input or a label, expected another --output folder"
                )
            if os.path.lexists(path) and not is_recorded(path):
                raise InputError(
                    f"{path} is there and was not made, or has been changed, since predict wrote "
                    "it, expected another --output folder"
                )
    return jobs
