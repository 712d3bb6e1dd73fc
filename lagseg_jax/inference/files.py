"""Says where the files of each predicted case go, and writes them."""

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.imaging.dicom_derived import Algorithm
from lagseg_jax.imaging.dicom_segmentation import write_segmentation
from lagseg_jax.imaging.dicom_structures import write_structures
from lagseg_jax.imaging.dicom_study import Stack
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.mesh import MeshOptions, atrium_surface
from lagseg_jax.imaging.mesh_files import write_surface
from lagseg_jax.imaging.review_case import case_content
from lagseg_jax.imaging.slicer_scene import write_scene
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.views import slices_affine
from lagseg_jax.imaging.volume import write_mask, write_voxels
from lagseg_jax.inference.inputs import Input
from lagseg_jax.inference.records import FOLDER, is_recorded
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import check_writable

log = logging.getLogger(__name__)

MESH = MeshOptions()
# Folders beside the masks.
BESIDES = (
    *("previews", "probabilities", "meshes", "meshes_RAS"),
    *("scenes", "segmentations", "structures", "review"),
)
# Writes a review page: its path, its title, what `case_content` gave.
CasePage = Callable[[Path, str, dict[str, Any]], None]


@dataclass(frozen=True)
class Prediction:
    """One case, in its own voxel order.

    Attributes:
        volume: the image; only a preview or a review page needs its grey values.
        mask: (x, y, z) uint8.
        probability: (x, y, z) float32, where it is wanted.
        input_hash: `Input.content_hash` of what was read.
        stack: the DICOM images, where an object that refers to them is wanted.
        algorithm: what made the mask, for that.
        window: of the grey values in pictures, as in `grey_range`.
        estimates: columns of `uncertainty`, where they are wanted.
    """

    volume: Volume
    mask: np.ndarray
    probability: np.ndarray | None
    input_hash: str = ""
    stack: Stack | None = None
    algorithm: Algorithm | None = None
    window: Sequence[float] = ()
    estimates: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outputs:
    """Where the files of one case go; None for those that nobody asked for.

    Attributes:
        mesh_options: of the surface.
        image: what the scene shows, if 3D Slicer can open it as one file.
    """

    mask: Path
    preview: Path | None = None
    probability: Path | None = None
    mesh: Path | None = None
    segmentation: Path | None = None
    structures: Path | None = None
    review: Path | None = None
    scene: Path | None = None
    mesh_options: MeshOptions = MESH
    image: Path | None = None

    def paths(self) -> list[Path]:
        """Those that were asked for."""
        besides = self.preview, self.probability, self.mesh, self.scene, self.review
        dicom = self.segmentation, self.structures
        return [self.mask, *(path for path in (*besides, *dicom) if path is not None)]

    @property
    def dicom(self) -> bool:
        """Whether one of them is an object that refers to the images of its series."""
        return self.segmentation is not None or self.structures is not None

    @property
    def drawn(self) -> bool:
        """Whether one of them shows the grey values."""
        return self.preview is not None or self.review is not None

    def complete(self) -> bool:
        """Whether all of them are there; each appears under its name only when it is complete."""
        return all(path.exists() for path in self.paths())

    def write(
        self,
        done: Prediction,
        threshold: float,
        title: str,
        plane: str = "",
        case_page: CasePage | None = None,
    ) -> dict[Path, OSError | InputError]:
        """Writes the mask, then what else was asked for, which never costs a mask.

        Args:
            done: with a probability, where map or mesh was asked for.
            threshold: of the probability in the mask.
            title: above the preview and the review page.
            plane: of the slices in both, as in `slices.to_slices`.
            case_page: writes the review page, where it was asked for.

        Returns:
            What could not be written besides the mask, and why.

        Raises:
            OSError: no space or permission for the mask.
        """
        self.mask.parent.mkdir(parents=True, exist_ok=True)
        write_mask(self.mask, done.mask, done.volume)
        failed: dict[Path, OSError | InputError] = {}
        besides = self._besides(done, threshold, title, plane, case_page)
        for path, write in besides:
            if path is not None:
                try:
                    path.parent.mkdir(exist_ok=True)
                    write(path)
                except (OSError, InputError) as error:
                    failed[path] = error
                    with contextlib.suppress(OSError):
                        path.unlink()  # of an earlier call: another mask's
        return failed

    def _besides(
        self, done: Prediction, threshold: float, title: str, plane: str, case_page: CasePage | None
    ) -> list[tuple[Path | None, Callable[[Path], None]]]:
        """What is written besides the mask, and how; arguments as in `write`."""
        volume, mask, probability = done.volume, done.mask, done.probability

        def preview(path: Path) -> None:
            from lagseg_jax.imaging.overlay import write_overlay  # late: it loads matplotlib

            image, geometry = to_slices(volume.array, volume.affine, plane)
            drawn, _ = to_slices(mask, volume.affine, plane)
            affine = slices_affine(volume.affine, mask.shape, geometry)
            write_overlay(path, image, None, drawn, title, affine, done.window)

        def review(path: Path) -> None:
            assert case_page is not None
            content = case_content(volume, mask, None, probability, plane, done.window)
            case_page(path, title, content)

        def dicom(path: Path) -> None:
            assert done.stack is not None and done.algorithm is not None
            write = write_segmentation if path == self.segmentation else write_structures
            write(path, mask, done.stack, done.algorithm)

        def mesh(path: Path) -> None:
            assert probability is not None
            how = self.mesh_options
            wanted = volume.affine, how.triangles, how.space
            surface = atrium_surface(mask, probability, threshold, *wanted)
            log.info("%s: %s", path, surface)
            write_surface(path, surface)

        def probabilities(path: Path) -> None:
            assert probability is not None
            write_voxels(path, probability, volume)

        return [
            (self.segmentation, dicom),
            (self.structures, dicom),
            (self.probability, probabilities),
            (self.mesh, mesh),
            (self.scene, self._write_scene),
            (self.preview, preview),
            (self.review, review),
        ]

    def _write_scene(self, path: Path) -> None:
        surface = self.mesh if self.mesh and self.mesh.exists() else None
        shown = self.image, self.mask, surface, self.mesh_options.space
        write_scene(path, path.stem, *shown)


def plan_outputs(
    inputs: Sequence[Input],
    folder: Path,
    preview: bool = False,
    probability: bool = False,
    mesh: MeshOptions | None = None,
    segmentation: bool = False,
    structures: bool = False,
    review: bool = False,
    scene: bool = False,
) -> dict[Input, Outputs]:
    """The mask of each in `folder`; the rest in folders in it, named by what they are.

    Raises:
        InputError: the folder cannot be written to, or an output would replace an input, a label
            of a dataset, or another file that `predict` did not make; a segmentation or structures
            of images that are not DICOM.
    """
    if segmentation or structures:
        _check_dicom(inputs, "--dicom_seg" if segmentation else "--rtstruct")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder for the masks")
    for name in ("", *BESIDES, FOLDER):
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
            folder / mesh.place(one.name) if mesh else None,
            folder / "segmentations" / f"{one.name}.dcm" if segmentation else None,
            folder / "structures" / f"{one.name}.dcm" if structures else None,
            folder / "review" / f"{one.name}.html" if review else None,
            folder / "scenes" / f"{one.name}.mrml" if scene else None,
            mesh or MESH,
            one.source if one.stack is None else None,
        )
        for path in jobs[one].paths():
            _check_free(path, given)
    return jobs


def _check_dicom(inputs: Sequence[Input], option: str) -> None:
    for one in inputs:
        if one.stack is None and not one.problem:
            raise InputError(
                f"{option} is given, but {one.source} is no DICOM series, expected one: the object "
                "refers to the images of its series"
            )


def _check_free(path: Path, given: Collection[Path]) -> None:
    """Raises InputError where an output would replace something that `predict` did not make."""
    if path.resolve() in given:
        raise InputError(
            f"{path} would overwrite its input or a label, expected another --output folder"
        )
    if os.path.lexists(path) and not is_recorded(path):
        raise InputError(
            f"{path} is there and was not made, or has been changed, since predict wrote "
            "it, expected another --output folder"
        )
