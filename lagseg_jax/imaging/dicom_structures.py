"""Writes a mask as a DICOM RT Structure Set, contours for systems that read nothing else.

The object (DICOM PS3.3 A.19) belongs to the patient and study of its images. Each slice has closed
planar contours along the edges of its voxels, in millimetres, LPS.
"""

from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.imaging.dicom_derived import (
    NAME,
    RESEARCH,
    Algorithm,
    derived_uid,
    header_of,
    of_study,
    series_number,
    write_derived,
)
from lagseg_jax.imaging.dicom_header import Frame
from lagseg_jax.imaging.dicom_study import Stack
from lagseg_jax.imaging.outlines import outlines

_KIND = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY_KIND = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, retired and still required
_SERIES_NUMBER = 8000
_COLOUR = [255, 64, 64]


def write_structures(path: Path, mask: np.ndarray, stack: Stack, algorithm: Algorithm) -> None:
    """Writes the contours of a mask (x, y, z) on the grid of a stack; errors: `write_derived`."""
    write_derived(path, stack, lambda: _structure_set(mask.astype(bool), stack, algorithm))


def contours_of(mask: np.ndarray, stack: Stack) -> list[tuple[Frame, np.ndarray]]:
    """The polygons of a mask (x, y, z): the image of each, and its vertices (N, 3) in mm, LPS."""
    found = []
    for number, frame in enumerate(stack.frames):
        header = frame.header
        along_row, along_column = np.reshape(header["ImageOrientationPatient"], (2, 3))
        between_rows, between_columns = header["PixelSpacing"]
        for polygon in outlines(mask[..., number]):
            column, row = polygon[:, 0], header["Rows"] - 1 - polygon[:, 1]
            place = np.outer(column * between_columns, along_row)
            place += np.outer(row * between_rows, along_column)
            found.append((frame, place + header["ImagePositionPatient"]))
    return found


def _structure_set(mask: np.ndarray, stack: Stack, algorithm: Algorithm) -> Any:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ImplicitVRLittleEndian

    image = header_of(stack.frames[0].file)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(_KIND)
    meta.MediaStorageSOPInstanceUID = UID(derived_uid("RTSTRUCT", mask, stack, algorithm))
    # With explicit types a contour would end at 65534 bytes.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    of_study(image, made)
    made.SOPClassUID, made.SOPInstanceUID = _KIND, meta.MediaStorageSOPInstanceUID
    made.Modality, made.OperatorsName = "RTSTRUCT", ""
    made.SeriesInstanceUID = derived_uid("series of RTSTRUCT", mask, stack, algorithm)
    made.SeriesNumber = series_number(image, _SERIES_NUMBER)
    made.SeriesDescription = algorithm.series
    made.Manufacturer = made.ManufacturerModelName = NAME
    made.SoftwareVersions, made.DeviceSerialNumber = algorithm.version, "0"
    made.FrameOfReferenceUID = image.FrameOfReferenceUID
    made.PositionReferenceIndicator = ""
    made.InstanceNumber, made.ApprovalStatus = 1, "UNAPPROVED"
    made.StructureSetLabel, made.StructureSetName = "LEFT_ATRIUM", "Left atrium"
    made.StructureSetDescription = (
        f"{RESEARCH}. {NAME} {algorithm.version}, run_sha256 {algorithm.run}"
    )[:1024]
    now = _now()
    made.StructureSetDate, made.StructureSetTime = now
    made.InstanceCreationDate, made.InstanceCreationTime = now
    made.ReferencedFrameOfReferenceSequence = [_reference(stack, image)]
    made.StructureSetROISequence = [_region(image, algorithm)]
    made.ROIContourSequence = [_contours(mask, stack)]
    made.RTROIObservationsSequence = [_observation()]
    return made


def _now() -> tuple[str, str]:
    from datetime import datetime

    now = datetime.now()
    return f"{now:%Y%m%d}", f"{now:%H%M%S}"


def _item(**values: Any) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _image(frame: Frame) -> Any:
    """The reference to an image, or to the frame of an enhanced one."""
    kind, uid = (frame.header.get(name, "") for name in ("SOPClassUID", "SOPInstanceUID"))
    item = _item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=uid)
    if frame.header.get("NumberOfFrames", 1) > 1:
        item.ReferencedFrameNumber = frame.number + 1
    return item


def _reference(stack: Stack, image: Any) -> Any:
    """The frame of reference, study, series and images that contours lie in."""
    series = _item(
        SeriesInstanceUID=stack.uid, ContourImageSequence=[_image(frame) for frame in stack.frames]
    )
    study = _item(
        ReferencedSOPClassUID=_STUDY_KIND,
        ReferencedSOPInstanceUID=image.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=image.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _region(image: Any, algorithm: Algorithm) -> Any:
    return _item(
        ROINumber=1,
        ReferencedFrameOfReferenceUID=image.FrameOfReferenceUID,
        ROIName="Left atrium",
        ROIDescription=algorithm.use,
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=NAME,
    )


def _contours(mask: np.ndarray, stack: Stack) -> Any:
    items = [
        _item(
            ContourImageSequence=[_image(frame)],
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=len(vertices),
            ContourData=[f"{value:.4f}" for value in vertices.ravel()],
        )
        for frame, vertices in contours_of(mask, stack)
    ]
    about = {"ROIDisplayColor": _COLOUR, "ReferencedROINumber": 1}
    return _item(**about, **({"ContourSequence": items} if items else {}))


def _observation() -> Any:
    from pydicom.sr.codedict import codes

    code = codes.SCT.LeftAtrium
    return _item(
        ObservationNumber=1,
        ReferencedROINumber=1,
        RTROIInterpretedType="ORGAN",
        ROIInterpreter="",
        RTROIIdentificationCodeSequence=[
            _item(
                CodeValue=code.value,
                CodingSchemeDesignator=code.scheme_designator,
                CodeMeaning=code.meaning,
            )
        ],
    )
