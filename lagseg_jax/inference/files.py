"""Finds the volumes to predict at a path, and says where the files of each go."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lagseg_jax.data.layouts import find_layouts
from lagseg_jax.imaging.dicom import check_dicom_support, is_dicom_file, read_series, series_folders
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.mesh import atrium_surface, write_stl
from lagseg_jax.imaging.overlay import write_overlay
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.volume import (
    MAX_BYTES,
    SUFFIXES,
    case_name,
    is_volume_file,
    read_volume,
    write_mask,
    write_voxels,
)
from lagseg_jax.runtime.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """One volume: a file, or the folder of a DICOM series; `mask_name` is the mask's file name."""

    source: Path
    mask_name: str

    @property
    def name(self) -> str:
        """The case, unique among the inputs."""
        return case_name(self.mask_name)

    def read(
        self, max_bytes: int = MAX_BYTES, orientation: str = "", allow: Sequence[str] = ()
    ) -> Volume:
        """Raises InputError for what cannot be used, or has more than `max_bytes` of voxels."""
        if self.source.is_dir():
            return read_series(self.source, max_bytes, allow)
        return read_volume(self.source, max_bytes, orientation)


def find_inputs(path: Path) -> list[Input]:
    """What there is to predict at `path`.

    A file; the volume files in a folder, masks under their names; else the cases of the datasets
    (`data.layouts`, with labels or without) in it, masks named by case; else the DICOM series in it
    and in folders below, masks named by folder, as .nii.gz.

    Raises:
        InputError: nothing is there, or two cases have the same name.
    """
    inputs = _find(path)
    seen: dict[str, Input] = {}
    for one in inputs:
        if (other := seen.setdefault(one.name, one)) is not one:
            raise InputError(
                f"{one.source} and {other.source} are both named {one.name}, expected each case "
                "once; name the folder of one dataset, or one file"
            )
    return inputs


def _find(path: Path) -> list[Input]:
    if path.is_file():
        if is_dicom_file(path):
            raise InputError(f"{path} is a DICOM file, expected the folder of its whole series")
        return [Input(path, path.name)]
    if not path.is_dir():
        raise InputError(f"{path} does not exist, expected a volume file or a folder of them")
    if files := sorted(f for f in path.iterdir() if is_volume_file(f)):
        return [Input(file, file.name) for file in files]
    inputs = []
    for layout, folder, cases in find_layouts(path):
        log.info("input: %s at %s, %d cases", layout, folder, len(cases))
        for case in cases:
            suffix = case.image.name[len(case_name(case.image)) :]
            inputs.append(Input(case.image, case.name + suffix))
    if inputs:
        return inputs
    series = series_folders(path)
    if not series:
        raise InputError(
            f"{path} has no volume files, expected some that end in {', '.join(SUFFIXES)}, a known "
            "dataset, or folders of DICOM files"
        )
    check_dicom_support()
    log.info("input: %d folders of DICOM files at %s", len(series), path)
    root = path.resolve()
    names = ["_".join(folder.resolve().relative_to(root).parts) or root.name for folder in series]
    return [Input(folder, f"{name}.nii.gz") for folder, name in zip(series, names)]


@dataclass(frozen=True)
class Prediction:
    """One case, in its own voxel order.

    Attributes:
        volume: the image; only a preview needs its grey values.
        mask: (x, y, z) uint8.
        probability: (x, y, z) float32, where it is wanted.
    """

    volume: Volume
    mask: np.ndarray
    probability: np.ndarray | None


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
        write_mask(self.mask, mask, volume)


def plan_outputs(
    inputs: Sequence[Input],
    folder: Path,
    preview: bool = False,
    probability: bool = False,
    mesh: bool = False,
) -> dict[Input, Outputs]:
    """The mask of each in `folder`; the rest in `previews`, `probabilities` and `meshes` in it.

    Raises:
        InputError: the folder is a file, or a mask would overwrite an input.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder for the masks")
    jobs = {}
    for one in inputs:
        mask = folder / one.mask_name
        if mask.resolve() == one.source.resolve():
            raise InputError(f"{mask} would overwrite its input, expected another --output folder")
        jobs[one] = Outputs(
            mask,
            folder / "previews" / f"{one.name}.png" if preview else None,
            folder / "probabilities" / f"{one.name}.nii.gz" if probability else None,
            folder / "meshes" / f"{one.name}.stl" if mesh else None,
        )
    return jobs
