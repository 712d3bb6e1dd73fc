"""Writes a mask as a DICOM Segmentation object of the series that it was made of.

The object (DICOM PS3.3 A.51) belongs to the patient and study of its images and is binary, with one
frame for each of them, so that it has their geometry exactly.
"""

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.imaging.dicom_files import DicomFile, open_dicom, quiet
from lagseg_jax.imaging.dicom_study import Stack
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.extras import install_command
from lagseg_jax.runtime.files import write_atomically

NAME = "lagseg_jax"
RESEARCH = "Research use only"
_SERIES_NUMBER = 7000  # and that of the images: apart from those of scanners
# Attributes that must be there, empty where the images do not have them.
_MAY_BE_EMPTY = """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime
    AccessionNumber ReferringPhysicianName StudyID""".split()


@dataclass(frozen=True)
class Algorithm:
    """What made a mask.

    Attributes:
        version: of this package.
        run: SHA-256 of the run, or several with commas between them.
    """

    version: str
    run: str


def check_segmentation_support() -> None:
    """Raises InputError if highdicom, an optional dependency, is not installed."""
    if importlib.util.find_spec("highdicom") is None:
        raise InputError(
            "--dicom_seg needs highdicom, which is not installed, expected it after "
            f"{install_command('dicom')}"
        )


def write_segmentation(path: Path, mask: np.ndarray, stack: Stack, algorithm: Algorithm) -> None:
    """Writes a mask (x, y, z) on the grid of a stack, complete or not at all.

    Raises:
        InputError: the headers of the images are too damaged, or their files are gone.
        OSError: no space, no permission.
    """
    planes = np.ascontiguousarray(mask.astype(bool)[:, ::-1].T)  # rows from the top, as stored
    try:
        with quiet():
            stream = io.BytesIO()
            _segmentation(planes, stack, algorithm).save_as(stream)
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # its text may quote the patient
        raise InputError(
            f"{stack.folder}: no DICOM segmentation can be made of these headers "
            f"({type(error).__name__}), expected those of complete MR images"
        ) from error
    write_atomically(path, stream.getvalue())


def _segmentation(planes: np.ndarray, stack: Stack, algorithm: Algorithm) -> Any:
    """The object of planes (Z, rows, columns) bool, in the order of the stack's frames."""
    import highdicom as hd

    files = list(dict.fromkeys(frame.file for frame in stack.frames))
    images = [header_of(file) for file in files]
    series = int(images[0].get("SeriesNumber") or 0)
    enhanced = int(images[0].get("NumberOfFrames") or 1) > 1
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=planes.astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[_left_atrium(algorithm)],
        series_instance_uid=hd.UID(),
        series_number=series + _SERIES_NUMBER if series < 2**30 else _SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=algorithm.version,
        device_serial_number="0",
        omit_empty_frames=False,
        series_description=f"Left atrium, {NAME}. {RESEARCH}",
        content_label="LEFT_ATRIUM",
        content_description=RESEARCH,
        **(_places(stack) if enhanced else {}),
    )


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
            f"{file}: no FrameOfReferenceUID in the DICOM header, expected one for --dicom_seg"
        )
    return image


def _left_atrium(algorithm: Algorithm) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Left atrium",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.LeftAtrium,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=NAME,
            family=codes.DCM.ArtificialIntelligence,
            version=algorithm.version,
            parameters={"run_sha256": algorithm.run, "use": RESEARCH},
        ),
        tracking_id="left atrium",
        tracking_uid=hd.UID(),
    )


def _places(stack: Stack) -> dict[str, Any]:
    """Where the planes lie, of which an enhanced file may have others, too."""
    import highdicom as hd

    headers = [frame.header for frame in stack.frames]
    assert stack.affine is not None
    step = float(np.linalg.norm(stack.affine[:3, 2]))
    positions: Sequence[Any] = [
        hd.PlanePositionSequence("PATIENT", header["ImagePositionPatient"]) for header in headers
    ]
    return {
        "plane_positions": positions,
        "plane_orientation": hd.PlaneOrientationSequence(
            "PATIENT", headers[0]["ImageOrientationPatient"]
        ),
        "pixel_measures": hd.PixelMeasuresSequence(
            pixel_spacing=headers[0]["PixelSpacing"],
            slice_thickness=headers[0].get("SliceThickness", step),
            spacing_between_slices=step,
        ),
    }
