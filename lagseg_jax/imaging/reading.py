"""What is told about the files of volumes, where they do not say it themselves."""

from dataclasses import dataclass
from typing import Any

from lagseg_jax.imaging.formats import MAX_BYTES


@dataclass(frozen=True)
class Reading:
    """How volumes and labels are read.

    Attributes:
        max_bytes: of voxels in one file; more is refused before they are allocated.
        orientation: letters such as "LPS", "sform" or "qform", for files that do not say their
            orientation or contradict themselves (see `orientation`); others say it themselves.
        plane: in which volumes are cut, as in `slices.to_slices`; "": as their voxels say.
        allow: codes of problems that are accepted; of a DICOM series, as in `find_studies`.
    """

    max_bytes: int = MAX_BYTES
    orientation: str = ""
    plane: str = ""
    allow: tuple[str, ...] = ()

    @classmethod
    def of(cls, told: Any) -> "Reading":
        """As `config.data`, or the options of a command, say."""
        return cls(int(told.max_gb * 1e9), told.orientation, told.plane, tuple(told.allow))


AS_STORED = Reading()
