"""Reads what is needed of a DICOM header, as plain values: one header for each image plane.

A file holds one plane, or in an enhanced object many frames, whose values stand in functional
groups (DICOM PS3.3 C.7.6.16). Nothing that identifies a patient is read.
"""

import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lagseg_jax.imaging.dicom_files import DicomFile, check_dicom_support, open_dicom, quiet
from lagseg_jax.runtime.errors import InputError

Header = dict[str, Any]  # DICOM keyword -> text, number, or tuple of them; what is empty is missing

_DEFLATED = "1.2.840.10008.1.2.1.99"
MAX_FRAMES = 100_000
# What is read, by what it is taken for whatever the file says of its type.
_TEXTS = """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID SeriesDescription
    ProtocolName SequenceName PulseSequenceName Modality MRAcquisitionType FrameOfReferenceUID
    LossyImageCompression PhotometricInterpretation ComplexImageComponent AcquisitionTime StackID
    SegmentationType""".split()
_LISTS = "ImageType FrameType ScanningSequence".split()
_WHOLE = """SeriesNumber NumberOfFrames Rows Columns SamplesPerPixel BitsAllocated BitsStored
    HighBit PixelRepresentation InstanceNumber TemporalPositionIdentifier
    TemporalPositionIndex AcquisitionNumber FrameAcquisitionNumber InStackPositionNumber
    EchoNumbers ReferencedSegmentNumber""".split()
_NUMBERS = """SliceThickness SpacingBetweenSlices RescaleSlope RescaleIntercept InversionTime
    InversionTimes EchoTime EffectiveEchoTime TriggerTime NominalPercentageOfCardiacPhase
    NominalCardiacTriggerDelayTime""".split()
_VECTORS = "ImagePositionPatient ImageOrientationPatient PixelSpacing".split()
_ALL = (*_TEXTS, *_LISTS, *_WHOLE, *_NUMBERS, *_VECTORS)
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# Their names in enhanced objects -> those of single images.
_SAME = {
    "FrameType": "ImageType",
    "EffectiveEchoTime": "EchoTime",
    "InversionTimes": "InversionTime",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "InStackPositionNumber": "InstanceNumber",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
}


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image plane: its file, its number in the file from 0, and its header."""

    file: DicomFile
    number: int
    header: Header

    @property
    def name(self) -> str:
        """For messages: the file's name, and the frame from 1 where there are several."""
        several = self.header.get("NumberOfFrames", 1) > 1
        return f"{self.file.name} frame {self.number + 1}" if several else self.file.name

    def __str__(self) -> str:
        several = self.header.get("NumberOfFrames", 1) > 1
        return f"{self.file} frame {self.number + 1}" if several else str(self.file)


def read_frames(file: DicomFile) -> list[Frame]:
    """The planes of a file, without pixels; of what is no image one header.

    Raises:
        InputError: no pydicom, a damaged file, or one whose header is compressed.
    """
    check_dicom_support()
    try:
        with quiet():
            return _read_frames(file)
    except InputError:
        raise
    except Exception as error:  # pydicom parses a value when it is asked for
        raise damaged(file, error) from error


def damaged(file: object, error: Exception) -> InputError:
    """The refusal of a file that pydicom cannot read; values that it quotes are left out."""
    text = re.sub(r"'.*'|\".*\"", "...", " ".join(str(error).split()))
    reason = text[:200].rstrip(".") or type(error).__name__
    return InputError(f"{file}: damaged or not readable ({reason}), expected a DICOM image")


def _read_frames(file: DicomFile) -> list[Frame]:
    import pydicom

    # It would be inflated as a whole, however large, before anything can be checked.
    if transfer_syntax(file) == _DEFLATED:
        raise InputError(f"{file}: a deflated DICOM file, expected plain transfer syntax")
    with open_dicom(file) as stream:
        dataset = pydicom.dcmread(
            stream, stop_before_pixels=True, force=True, specific_tags=[*_ALL, *_GROUPS]
        )
    header = _plain(dataset)
    kind = dataset.file_meta.get("MediaStorageSOPClassUID")
    header["SOPClassUID"] = str(kind or header.get("SOPClassUID", ""))
    if not header["SOPClassUID"] or (is_image(header) and "Rows" not in header):
        raise ValueError("the header ends early")
    frames = max(1, header.get("NumberOfFrames", 1))
    each = dataset.get(_GROUPS[1]) or ()
    if frames > 1 and not each:  # a film: nothing says where its frames lie
        header.pop("ImagePositionPatient", None)
        frames = 1
    if frames > MAX_FRAMES or (each and len(each) != frames):
        raise InputError(
            f"{file}: NumberOfFrames is {frames}, but {len(each)} frames are described, expected "
            f"as many, at most {MAX_FRAMES}"
        )
    header |= _group_values((dataset.get(_GROUPS[0]) or [None])[0])
    groups = each or [None] * frames
    return [Frame(file, number, header | _group_values(item)) for number, item in enumerate(groups)]


def _group_values(item: Any) -> Header:
    """The values of one item of functional groups, under the names of single images."""
    values: Header = {}
    for element in item or ():
        if element.VR == "SQ" and len(element.value or ()):
            values |= _plain(element.value[0])
    return {_SAME.get(name, name): value for name, value in values.items()}


def _plain(dataset: Any) -> Header:
    values: Header = {}
    for keyword in _ALL:
        value = dataset.get(keyword)
        if value is None or value == "" or (isinstance(value, Sequence) and not len(value)):
            continue
        many = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
        if keyword in _VECTORS:
            values[keyword] = tuple(float(one) for one in many)
        elif keyword in _LISTS:
            values[keyword] = tuple(_text(one) for one in many)
        elif keyword in _TEXTS:
            values[keyword] = _text(many[0])
        else:
            values[keyword] = (int if keyword in _WHOLE else float)(many[0])
    return values


def _text(value: Any) -> str:
    """Text as long as DICOM's short texts: with a wrong length it would swallow what follows."""
    return sys.intern(re.split(r"[\x00-\x1f\x7f-\x9f]", str(value).strip())[0][:64].strip())


def is_image(header: Header) -> bool:
    """Whether the object is an image, by its SOP class."""
    return "Image" in kind_name(header)


def kind_name(header: Header) -> str:
    """The name of the SOP class, such as "MR Image Storage"."""
    return uid_of(header["SOPClassUID"]).name


def uid_of(text: str) -> Any:
    """pydicom's object for a UID, which may be none."""
    from pydicom.config import IGNORE
    from pydicom.uid import UID

    return UID(text, IGNORE)


def transfer_syntax(file: DicomFile) -> str:
    """From the file's meta information, which some files lack; "" there."""
    import pydicom

    with open_dicom(file) as stream:
        start = io.BytesIO(stream.read(2**16))
    with quiet():
        pydicom.filereader.read_preamble(start, force=True)
        meta = pydicom.filereader.read_dataset(
            start, is_implicit_VR=False, is_little_endian=True, stop_when=_after_meta
        )
        return str(meta.get("TransferSyntaxUID", ""))


def _after_meta(tag: int, vr: str | None, length: int) -> bool:
    return tag >> 16 != 2
