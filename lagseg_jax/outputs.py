"""mask and probability of one case -> its files: mask, preview, probability map, surface."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lagseg_jax.inputs import Input
from lagseg_jax.mesh import atrium_surface, write_stl
from lagseg_jax.mri_file import Volume
from lagseg_jax.overlay import write_overlay
from lagseg_jax.slices import to_slices
from lagseg_jax.volume import write_mask, write_voxels


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
        self,
        volume: Volume,
        mask: np.ndarray,
        probability: np.ndarray | None,
        threshold: float,
        title: str,
    ) -> None:
        """Writes what was asked for, the mask last.

        Args:
            volume: the image; only the preview needs its voxels.
            mask: (x, y, z) uint8.
            probability: (x, y, z) float32; None where neither map nor mesh was asked for.
            threshold: of the probability in the mask.
            title: above the preview.

        Raises:
            OSError: no space, no permission.
        """
        for path in self.paths():
            path.parent.mkdir(parents=True, exist_ok=True)
        if self.preview is not None:
            image, drawn = (to_slices(a, volume.affine)[0] for a in (volume.array, mask))
            write_overlay(self.preview, image, None, drawn, title)
        if self.mesh is not None:
            assert probability is not None
            write_stl(self.mesh, atrium_surface(mask, probability, threshold, volume.affine))
        if self.probability is not None:
            assert probability is not None
            write_voxels(self.probability, probability, volume)
        write_mask(self.mask, mask, volume)


def outputs_of(one: Input, folder: Path, preview: bool, probability: bool, mesh: bool) -> Outputs:
    """The mask in `folder`, the rest in `previews`, `probabilities` and `meshes` in it."""
    return Outputs(
        folder / one.mask_name,
        folder / "previews" / f"{one.name}.png" if preview else None,
        folder / "probabilities" / f"{one.name}.nii.gz" if probability else None,
        folder / "meshes" / f"{one.name}.stl" if mesh else None,
    )
