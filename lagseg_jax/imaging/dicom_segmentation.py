"""Writes a mask as a DICOM Segmentation object of the series that it was made of.

The object (DICOM PS3.3 A.51) belongs to the patient and study of its images and is binary, with one
frame for each of them, so that it has their geometry exactly.
"""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.imaging.dicom_derived import (
    NAME,
    RESEARCH,
    Algorithm,
    derived_uid,
    header_of,
    series_number,
    write_derived,
)
from lagseg_jax.imaging.dicom_study import Stack
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.extras import install_command

_SERIES_NUMBER = 7000


def check_segmentation_support() -> None:
    """Raises InputError if highdicom, an optional dependency, is not installed."""
    if importlib.util.find_spec("highdicom") is None:
        raise InputError(
            "--dicom_seg needs highdicom, which is not installed, expected it after "
            f"{install_command('dicom')}"
        )


def write_segmentation(path: Path, mask: np.ndarray, stack: Stack, algorithm: Algorithm) -> None:
    """Writes a mask (x, y, z) on the grid of a stack; errors as in `write_derived`."""
    write_derived(path, stack, lambda: _segmentation(mask.astype(bool), stack, algorithm))


def _segmentation(mask: np.ndarray, stack: Stack, algorithm: Algorithm) -> Any:
    """The object, with planes in the order of the stack's frames."""
    import highdicom as hd

    files = list(dict.fromkeys(frame.file for frame in stack.frames))
    images = [header_of(file) for file in files]
    planes = np.ascontiguousarray(mask[:, ::-1].T)  # rows from the top, as stored
    enhanced = int(images[0].get("NumberOfFrames") or 1) > 1
    uid = functools.partial(derived_uid, mask=mask, stack=stack, algorithm=algorithm)
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=planes.astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[_left_atrium(algorithm, uid("atrium"))],
        series_instance_uid=uid("series of SEG"),
        series_number=series_number(images[0], _SERIES_NUMBER),
        sop_instance_uid=uid("SEG"),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=algorithm.version,
        device_serial_number="0",
        omit_empty_frames=False,
        series_description=algorithm.series,
        content_label="LEFT_ATRIUM",
        content_description=algorithm.use[:64],
        **(_places(stack) if enhanced else {}),
    )


def _left_atrium(algorithm: Algorithm, uid: str) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    segment = hd.seg.SegmentDescription(
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
        tracking_uid=uid,
    )
    segment.SegmentDescription = algorithm.use
    return segment


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
