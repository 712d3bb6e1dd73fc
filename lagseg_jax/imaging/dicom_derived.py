"""What DICOM objects that are made of a series have in common: patient, study, program, UIDs."""

import hashlib
import io
import json
import uuid
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.imaging.dicom_files import DicomFile, open_dicom, quiet
from lagseg_jax.imaging.dicom_study import Stack
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_atomically

NAME = "lagseg_jax"
RESEARCH = "Research use only"
# Attributes that must be there, empty where the images do not have them.
_MAY_BE_EMPTY = """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime
    AccessionNumber ReferringPhysicianName StudyID""".split()
_OF_STUDY = (*_MAY_BE_EMPTY, "SpecificCharacterSet", "StudyInstanceUID", "StudyDescription")


@dataclass(frozen=True)
class Algorithm:
    """What made a mask.

    Attributes:
        version: of this package.
        run: SHA-256 of the run, or several with commas between them.
        remarks: what is doubtful about the mask, for those who see nothing but the object.
    """

    version: str
    run: str
    remarks: str = ""

    @property
    def series(self) -> str:
        """The description of the series, of no more than the 64 characters that lists show."""
        return f"Left atrium, {NAME}. {RESEARCH}{'. See its remarks' * bool(self.remarks)}"

    @property
    def use(self) -> str:
        """What it may be used for, and all remarks, of no more than 1024 characters."""
        return ". Remarks: ".join(filter(None, [RESEARCH, self.remarks]))[:1024]


def header_of(file: DicomFile) -> Any:
    """All of a header without the pixels, with what an object of its study must have."""
    import pydicom

    with open_dicom(file) as stream:
        image = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    for name in _MAY_BE_EMPTY:
        if name not in image:
            setattr(image, name, "")
    if not image.get("FrameOfReferenceUID"):
        raise InputError(
            f"{file}: no FrameOfReferenceUID in the DICOM header, expected one for an object that "
            "refers to it"
        )
    return image


def of_study(image: Any, made: Any) -> None:
    """Gives an object the patient and the study of an image."""
    for name in _OF_STUDY:
        if name in image:
            made[name] = image[name]


def series_number(image: Any, above: int) -> int:
    """That of the images and `above`, apart from those of scanners."""
    number = int(image.get("SeriesNumber") or 0)
    return number + above if number < 2**30 else above


def derived_uid(what: str, mask: np.ndarray, stack: Stack, algorithm: Algorithm) -> str:
    """The same UID whenever the same run makes the same mask of the same images, and says the same.

    So what is stored in a PACS a second time is not there twice. It is a UUID (DICOM PS3.5 B.2) of
    the SHA-256 of all these.
    """
    images = [frame.header.get("SOPInstanceUID", "") for frame in stack.frames]
    content = json.dumps([what, stack.key, images, *astuple(algorithm), mask.shape])
    digest = hashlib.sha256(content.encode())
    digest.update(np.packbits(mask.astype(bool)).tobytes())
    return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"


def write_derived(path: Path, stack: Stack, make: Callable[[], Any]) -> None:
    """Writes the object that `make` gives, complete or not at all.

    Raises:
        InputError: the headers of the images are too damaged, or their files are gone.
        OSError: no space, no permission.
    """
    try:
        with quiet():
            stream = io.BytesIO()
            make().save_as(stream, enforce_file_format=True)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # its text may quote the patient
        if isinstance(error, OSError) and error.errno:
            raise  # of a disk; those of pydicom have no number
        raise InputError(
            f"{stack.folder}: no DICOM object can be made of these headers "
            f"({type(error).__name__}), expected those of complete MR images"
        ) from error
    write_atomically(path, stream.getvalue())
