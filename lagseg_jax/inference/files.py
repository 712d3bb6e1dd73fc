"""Says where the files of each predicted case go, and writes them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from lagseg_jax.imaging.dicom_segmentation import Algorithm, write_segmentation
from lagseg_jax.imaging.dicom_study import Stack
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.mesh import atrium_surface, write_stl
from lagseg_jax.imaging.overlay import write_overlay
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.volume import write_mask, write_voxels
from lagseg_jax.inference.inputs import Input
from lagseg_jax.inference.records import FOLDER, is_recorded
from lagseg_jax.runtime.errors import InputError

BESIDES = ("previews", "probabilities", "meshes", "segmentations")  # folders beside the masks


@dataclass(frozen=True)
class Prediction:
    """One case, in its own voxel order.

    Attributes:
        volume: the image; only a preview needs its grey values.
        mask: (x, y, z) uint8.
        probability: (x, y, z) float32, where it is wanted.
        input_hash: `Input.content_hash` of what was read.
        stack: the DICOM images, where a segmentation of them is wanted.
        algorithm: what made the mask, for that.
    """

    volume: Volume
    mask: np.ndarray
    probability: np.ndarray | None
    input_hash: str = ""
    stack: Stack | None = None
    algorithm: Algorithm | None = None


@dataclass(frozen=True)
class Outputs:
    """Where the files of one case go; None for those that nobody asked for."""

    mask: Path
    preview: Path | None = None
    probability: Path | None = None
    mesh: Path | None = None
    segmentation: Path | None = None

    def paths(self) -> list[Path]:
        """Those that were asked for."""
        besides = self.preview, self.probability, self.mesh, self.segmentation
        return [self.mask, *(path for path in besides if path is not None)]

    def complete(self) -> bool:
        """Whether all of them are there; each appears under its name only when it is complete."""
        return all(path.exists() for path in self.paths())

    def write(self, done: Prediction, threshold: float, title: str, plane: str = "") -> None:
        """Writes what was asked for, the mask last.

        Args:
            done: with a probability, where map or mesh was asked for.
            threshold: of the probability in the mask.
            title: above the preview.
            plane: of the slices in the preview, as in `slices.to_slices`.

        Raises:
            OSError: no space, no permission.
        """
        volume, mask, probability = done.volume, done.mask, done.probability
        for path in self.paths():
            path.parent.mkdir(parents=True, exist_ok=True)
        if self.preview is not None:
            image, drawn = (to_slices(a, volume.affine, plane)[0] for a in (volume.array, mask))
            write_overlay(self.preview, image, None, drawn, title)
        if self.mesh is not None:
            assert probability is not None
            write_stl(self.mesh, atrium_surface(mask, probability, threshold, volume.affine))
        if self.probability is not None:
            assert probability is not None
            write_voxels(self.probability, probability, volume)
        if self.segmentation is not None:
            assert done.stack is not None and done.algorithm is not None
            write_segmentation(self.segmentation, mask, done.stack, done.algorithm)
        write_mask(self.mask, mask, volume)


def plan_outputs(
    inputs: Sequence[Input],
    folder: Path,
    preview: bool = False,
    probability: bool = False,
    mesh: bool = False,
    segmentation: bool = False,
) -> dict[Input, Outputs]:
    """The mask of each in `folder`; the rest in folders in it, named by what they are.

    Raises:
        InputError: the folder cannot be written to, or an output would replace an input, a label
            of a dataset, or another file that `predict` did not make; a segmentation of images
            that are not DICOM.
    """
    for one in inputs:
        if segmentation and one.stack is None and not one.problem:
            raise InputError(
                f"--dicom_seg is given, but {one.source} is no DICOM series, expected one: a "
                "segmentation object refers to the images of its series"
            )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder for the masks")
    _check_writable(folder)
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
            folder / "segmentations" / f"{one.name}.dcm" if segmentation else None,
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


def _check_writable(folder: Path) -> None:
    """Raises InputError unless a file can be written in each folder that is there or comes."""
    below = [folder / name for name in ("", *BESIDES, FOLDER)]
    for place in below:
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        try:
            with TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise InputError(
                f"{place} cannot be written to ({error.strerror}), expected an --output folder "
                "that can"
            ) from None
