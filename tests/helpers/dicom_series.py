"""Synthetic DICOM series and studies with a known geometry: one file for each slice."""

import zipfile
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    MRImageStorage,
    generate_uid,
)

# Directions of DICOM's rows and columns, LPS.
AXIAL = np.eye(3)[:2]
SAGITTAL = np.array([[0, 1.0, 0], [0, 0, -1.0]])
CORONAL = np.array([[1.0, 0, 0], [0, 0, -1.0]])
_A, _B = np.deg2rad((31, 17))
OBLIQUE = np.array(
    [[np.cos(_A), np.sin(_A), 0], [-np.sin(_A) * np.cos(_B), np.cos(_A) * np.cos(_B), np.sin(_B)]]
)
SPACING = (1.25, 0.75, 3.5)  # mm between rows, between columns, between slices
ORIGIN = np.array([-71.3, 12.9, 203.7])  # centre of the first pixel, LPS


SHAPE = (13, 19, 17)  # slices, rows, columns: of tests that need no other


class Each(list):
    """A value for each image of a series."""


def write_series(
    folder: Path,
    pixels: np.ndarray,
    turn: np.ndarray = AXIAL,
    spacing: tuple[float, float, float] = SPACING,
    reverse: bool = False,
    names: str = "IM{:04d}",
    **fields,
) -> list[Path]:
    """Writes pixels (slice, row, column), slices along the normal; `reverse` numbers them back.

    File names have nothing to do with the order. `fields` are set on every image; a list of
    `Each` has one value for each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal, paths = np.cross(*turn), []
    study, series, place = (generate_uid() for _ in range(3))
    for number, plane in enumerate(pixels):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = fields.get("SOPClassUID", MRImageStorage)
        meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / names.format((number * 7919 + 13) % 1009)
        image = FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID, image.FrameOfReferenceUID = study, place
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
            setattr(image, name, value[number] if isinstance(value, Each) else value)
        image.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_enhanced(
    path: Path,
    pixels: np.ndarray,
    turn: np.ndarray = AXIAL,
    order: list[int] | None = None,
    parts: int = 1,
    kinds: tuple[str, ...] = ("MAGNITUDE",),
    **fields,
) -> Path:
    """Writes an enhanced MR object of pixels (slice, row, column) as one file.

    Args:
        path: of the file.
        pixels: of the first part; the others are brighter by 1, 2, ...
        turn: directions of rows and columns.
        order: of the frames in the file.
        parts: time points, or as many as `kinds` are given.
        kinds: complex components.
        fields: of the whole object.
    """
    parts = max(parts, len(kinds))
    whole = np.concatenate([pixels + part for part in range(parts)])
    order = list(range(len(whole))) if order is None else order
    (first,) = write_series(path.parent / "one", pixels[:1], turn)
    image = dcmread(first)
    first.unlink()
    first.parent.rmdir()
    kind = "1.2.840.10008.5.1.4.1.1.4.1"
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = kind
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(image, name)
    del image.SliceThickness
    image.NumberOfFrames, image.InstanceNumber = len(whole), 1
    image.ImageType = ["ORIGINAL", "PRIMARY", "CARDIAC", "NONE"]
    image.SharedFunctionalGroupsSequence = [
        _group(
            PlaneOrientationSequence={
                "ImageOrientationPatient": [round(x, 9) for x in turn.ravel()]
            },
            PixelMeasuresSequence={"PixelSpacing": [*SPACING[:2]], "SliceThickness": SPACING[2]},
        )
    ]
    normal, items = np.cross(*turn), []
    for at in order:
        part, number = divmod(at, len(pixels))
        place = [round(x, 6) for x in ORIGIN + number * SPACING[2] * normal]
        content = {"InStackPositionNumber": int(number) + 1, "StackID": "1"}
        component = kinds[part] if len(kinds) > 1 else kinds[0]
        content["TemporalPositionIndex"] = 1 if len(kinds) > 1 else int(part) + 1
        content["DimensionIndexValues"] = [1, int(number) + 1, int(part) + 1]
        items.append(
            _group(
                PlanePositionSequence={"ImagePositionPatient": place},
                FrameContentSequence=content,
                MRImageFrameTypeSequence={
                    "FrameType": ["ORIGINAL", "PRIMARY", "CARDIAC", "NONE"],
                    "ComplexImageComponent": component,
                },
            )
        )
    image.PerFrameFunctionalGroupsSequence = items
    image.PixelData = whole[order].tobytes()
    for name, value in fields.items():
        setattr(image, name, value)
    image.save_as(path, enforce_file_format=True)
    return path


def order_of_frames(image: Dataset) -> np.ndarray:
    """The frames of an enhanced object along the normal of its planes."""
    shared = image.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    normal = np.cross(*np.reshape(shared.ImageOrientationPatient, (2, 3)).astype(float))
    frames = image.PerFrameFunctionalGroupsSequence
    places = [one.PlanePositionSequence[0].ImagePositionPatient for one in frames]
    return np.argsort(np.array(places, float) @ normal)


def _group(**sequences: dict) -> Dataset:
    group = Dataset()
    for name, values in sequences.items():
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        setattr(group, name, [item])
    return group


def compress(path: Path, syntax: str) -> None:
    """Compresses the pixels of a file without loss, JPEG Lossless by `jpeg_lossless` below."""
    image = dcmread(path)
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        planes = image.pixel_array.reshape(-1, image.Rows, image.Columns)
        image.PixelData = encapsulate([jpeg_lossless(plane) for plane in planes])
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = syntax
    else:
        image.compress(syntax)
    image.save_as(path)


def jpeg_lossless(plane: np.ndarray) -> bytes:
    """A grey image (rows, columns) of 16 bits as JPEG Lossless, first predictor (ITU T.81, H)."""
    rows, columns = plane.shape
    values = plane.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]  # from the left,
    predicted[1:, 0] = values[:-1, 0]  # at the edge from above
    predicted[0, 0] = 2**15
    difference = (values - predicted + 2**15) % 2**16 - 2**15
    bits = ""
    for value in difference.ravel().tolist():
        size = abs(value).bit_length()
        # Every size has a code of 5 bits, its own number; then the value follows.
        bits += f"{size:05b}"
        if 0 < size < 16:
            bits += f"{value if value > 0 else value + 2**size - 1:0{size}b}"
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    counts = bytes([0, 0, 0, 0, 17] + [0] * 11)
    return (
        b"\xff\xd8\xff\xc3\x00\x0b\x10"
        + rows.to_bytes(2, "big")
        + columns.to_bytes(2, "big")
        + b"\x01\x01\x11\x00"
        + b"\xff\xc4\x00\x24\x00"
        + counts
        + bytes(range(17))
        + b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00"
        + data
        + b"\xff\xd9"
    )


PATIENT = "Secret^Name"  # nobody may see it
STUDY = {  # folder: number, description, further fields
    "survey": (1, "localizer 3 planes", {}),
    "cine": (2, "cine_4ch_trufi", {}),
    "mra": (3, "3D CE-MRA pulmonary veins", {"MRAcquisitionType": "3D"}),
    "tiscout": (4, "TI_scout_70", {}),
    "lge": (5, "3D_LGE_navi_LA", {"MRAcquisitionType": "3D", "InversionTime": 260.0}),
    "sax": (6, "LGE PSIR sax", {"InversionTime": 300.0}),
    "map": (7, "T1 map post contrast LGE", {"InversionTime": 100.0}),
}


def write_study(folder: Path, pixels: np.ndarray, flat: bool = False) -> dict[str, list[Path]]:
    """A study as a scanner leaves it; `pixels` (slice, row, column) are those of its LGE.

    With `flat` all files lie in one folder, as a PACS exports them.
    """
    about = {"StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    about["PatientName"] = PATIENT
    written = {}
    for name, (number, description, fields) in STUDY.items():
        fields = {"SeriesNumber": number, "SeriesDescription": description} | fields | about
        planes, count = (pixels if name == "lge" else pixels + 1), len(pixels)
        if name == "cine":  # the same three positions, again and again
            places = [[*ORIGIN[:2], float(ORIGIN[2] + 8 * (n % 3))] for n in range(count // 3 * 3)]
            fields["ImagePositionPatient"] = Each(places)
            fields["TriggerTime"] = Each([float(40 * (n // 3)) for n in range(len(places))])
            planes = planes[: len(places)]
        if name == "survey":
            planes = planes[:3]
            turns = (AXIAL, SAGITTAL, CORONAL)
            fields["ImageOrientationPatient"] = Each([[*turn.ravel()] for turn in turns])
        place = folder if flat else folder / "DICOM" / name
        names = f"{number:02d}_" + "{:04d}.dcm"
        written[name] = write_series(place, planes, OBLIQUE, names=names, **fields)
    capture = dict(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", SeriesNumber=99, Modality="OT", **about)
    place = folder if flat else folder / "DICOM" / "capture"
    capture["SeriesDescription"] = "LGE screen"
    written["capture"] = write_series(place, pixels[:1], names="99_{:04d}.dcm", **capture)
    return written


def zipped(folder: Path, archive: Path) -> Path:
    """The files below a folder in an archive."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                opened.write(path, path.relative_to(folder))
    return archive


def position(turn: np.ndarray, spacing, row: int, column: int, number: int) -> np.ndarray:
    """Centre of a pixel in mm, RAS, by the equation of DICOM PS3.3 C.7.6.2.1.1."""
    along_row, along_column = turn
    lps = ORIGIN + along_row * spacing[1] * column + along_column * spacing[0] * row
    return (lps + np.cross(*turn) * spacing[2] * number) * [-1, -1, 1]
