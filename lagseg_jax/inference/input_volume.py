"""One volume to predict: where it lies, how its mask is called, and how it is read."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from lagseg_jax.imaging.dicom import read_stack
from lagseg_jax.imaging.dicom_files import open_dicom
from lagseg_jax.imaging.dicom_study import Stack
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.reading import AS_STORED, Reading
from lagseg_jax.imaging.volume import case_name, read_volume
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import content_sha256


@dataclass(frozen=True)
class Input:
    """One volume to predict.

    Attributes:
        source: a file; of a DICOM study the folder of its images, or the archive.
        mask_name: the mask's file name.
        label: of the case in its dataset, which no output may replace.
        stack: the DICOM images, if it is such.
        problem: why a study among others has none that can be used.
    """

    source: Path
    mask_name: str
    label: Path | None = None
    stack: Stack | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """The case, unique among the inputs."""
        return case_name(self.mask_name)

    def read(self, reading: Reading = AS_STORED) -> Volume:
        """Raises InputError for what cannot be used, or has too many bytes of voxels."""
        if self.problem:
            raise InputError(self.problem)
        if self.stack is not None:
            return read_stack(self.stack, reading.max_bytes)
        return read_volume(self.source, reading)

    def content_hash(self) -> str:
        """Of the file, or the DICOM images, that are read."""
        if self.stack is None:
            return content_sha256(self.source)
        return stack_hash(self.stack)


def stack_hash(stack: Stack) -> str:
    """SHA-256 of which images they are, and of the names and contents of their files."""
    files = {str(frame.file): frame.file for frame in stack.frames}
    found = [stack.key]
    for file in files.values():
        with open_dicom(file) as stream:
            found.append([file.name, hashlib.sha256(stream.read()).hexdigest()])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
