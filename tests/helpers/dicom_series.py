"""Synthetic DICOM series with a known geometry: one file for each slice."""

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

# Directions of DICOM's rows and columns, LPS.
AXIAL = np.eye(3)[:2]
SAGITTAL = np.array([[0, 1.0, 0], [0, 0, -1.0]])
CORONAL = np.array([[1.0, 0, 0], [0, 0, -1.0]])
_A, _B = np.deg2rad((31, 17))
OBLIQUE = np.array(
    [
        [np.cos(_A), np.sin(_A), 0],
        [-np.sin(_A) * np.cos(_B), np.cos(_A) * np.cos(_B), np.sin(_B)],
    ]
)
SPACING = (1.25, 0.75, 3.5)  # mm between rows, between columns, between slices
ORIGIN = np.array([-71.3, 12.9, 203.7])  # centre of the first pixel, LPS


def write_series(
    folder: Path,
    pixels: np.ndarray,
    turn: np.ndarray = AXIAL,
    spacing: tuple[float, float, float] = SPACING,
    reverse: bool = False,
    **fields,
) -> list[Path]:
    """Writes pixels (slice, row, column), slices along the normal; `reverse` numbers them back.

    File names have nothing to do with the order. `fields` are set on every image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal, series, paths = np.cross(*turn), generate_uid(), []
    for number, plane in enumerate(pixels):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / f"IM{(number * 7919 + 13) % 1009:04d}"
        image = FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID = image.FrameOfReferenceUID = "1.2.3"
        image.SeriesInstanceUID, image.SeriesDescription = series, "LGE"
        image.PatientID, image.PatientName, image.StudyDate = "1", "No^One", "20200101"
        image.Modality, image.SeriesNumber = "MR", 1
        image.Manufacturer, image.StudyTime = "SIEMENS", "120000"
        image.InstanceNumber = len(pixels) - number if reverse else number + 1
        image.ImagePositionPatient = [round(x, 6) for x in ORIGIN + number * spacing[2] * normal]
        image.ImageOrientationPatient = [round(x, 9) for x in turn.ravel()]
        image.PixelSpacing, image.SliceThickness = list(spacing[:2]), spacing[2]
        image.Rows, image.Columns = plane.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        bits = 8 * plane.dtype.itemsize
        image.BitsAllocated = image.BitsStored = bits
        image.HighBit, image.PixelRepresentation = bits - 1, int(plane.dtype.kind == "i")
        image.PixelData = plane.tobytes()
        for name, value in fields.items():
            setattr(image, name, value)
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def position(turn: np.ndarray, spacing, row: int, column: int, number: int) -> np.ndarray:
    """Centre of a pixel in mm, RAS, by the equation of DICOM PS3.3 C.7.6.2.1.1."""
    along_row, along_column = turn
    lps = ORIGIN + along_row * spacing[1] * column + along_column * spacing[0] * row
    return (lps + np.cross(*turn) * spacing[2] * number) * [-1, -1, 1]
