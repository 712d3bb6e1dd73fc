"""Decodes the pixels of a stack of DICOM images into voxels, within bounds."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lagseg_jax.imaging.dicom_files import DicomFile, open_dicom, quiet
from lagseg_jax.imaging.dicom_header import Frame, damaged, transfer_syntax, uid_of
from lagseg_jax.imaging.dicom_study import Stack
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.extras import install_command

_PLAIN = {False: "1.2.840.10008.1.2.1", True: "1.2.840.10008.1.2"}  # explicit, implicit types
# Markers of a frame's header in JPEG; 0xF7 is that of JPEG-LS.
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def missing_decoder(stack: Stack) -> str:
    """What is to be said where the stack's compression cannot be decoded here; "" else."""
    from pydicom.pixels import get_decoder

    file = stack.frames[0].file
    syntax = uid_of(transfer_syntax(file))
    if not syntax or syntax in _PLAIN.values():
        return ""
    try:
        if not syntax.is_compressed:
            return ""
        decoder = get_decoder(syntax)
    except (NotImplementedError, ValueError):  # pydicom does not know it, or it is no syntax
        return f"{file}: stored as {syntax.name}, expected images in a syntax that pydicom decodes"
    if decoder.is_available:
        return ""
    needs = " or ".join(decoder.missing_dependencies)
    return (
        f"{file}: compressed as {syntax.name}, whose decoder is not installed ({needs}), expected "
        f"it after {install_command('dicom')}"
    )


def read_pixels(stack: Stack, max_bytes: int) -> np.ndarray:
    """The voxels (x, y, z) in dcm2niix's order, in the stored dtype, or float32 where scaled.

    Raises:
        InputError: damaged or missing pixels, different types, or more than `max_bytes`.
    """
    headers = [frame.header for frame in stack.frames]
    scales = [(h.get("RescaleSlope") or 1.0, h.get("RescaleIntercept") or 0.0) for h in headers]
    scaled = any(scale != (1.0, 0.0) for scale in scales)
    kinds = {(h.get("BitsAllocated"), h.get("PixelRepresentation")) for h in headers}
    bits, signed = kinds.pop()
    # Decoders read the lowest bits, those of all images but a few older than 2011.
    lowest = all(h["HighBit"] == h.get("BitsStored", 0) - 1 for h in headers if "HighBit" in h)
    many = kinds or not lowest or not np.isfinite(scales).all()
    if many or bits not in (8, 16, 32) or signed not in (0, 1):
        raise InputError(f"{stack.folder}: pixels of different or unknown types, expected integers")
    dtype = np.dtype(np.float32 if scaled else f"{'ui'[signed]}{bits // 8}")
    size = math.prod(stack.shape) * dtype.itemsize
    if size > max_bytes or 0 in stack.shape:
        raise InputError(
            f"{stack.folder}: {size} bytes of voxels declared (shape {stack.shape}), expected 1 to "
            f"{max_bytes}"
        )
    array = np.empty(stack.shape, dtype, order="F")
    where = {id(frame): z for z, frame in enumerate(stack.frames)}
    for frame, pixels in planes(stack.frames):
        z = where[id(frame)]
        if pixels.shape != stack.shape[1::-1]:
            raise InputError(
                f"{frame}: pixels of shape {pixels.shape}, expected {stack.shape[1::-1]}"
            )
        pixels = pixels[::-1].T
        if scaled:
            with np.errstate(over="ignore", invalid="ignore"):  # found below
                pixels = pixels * np.float32(scales[z][0]) + np.float32(scales[z][1])
            if not np.isfinite(pixels).all():
                raise InputError(
                    f"{frame}: slope and intercept {scales[z]} make values that are not finite, "
                    "expected grey values"
                )
        array[:, :, z] = pixels
    return array


def planes(frames: Sequence[Frame]) -> Iterator[tuple[Frame, np.ndarray]]:
    """Every frame with its pixels (rows, columns), file by file.

    Raises:
        InputError: damaged pixels.
    """
    files: dict[DicomFile, list[Frame]] = {}
    for frame in frames:
        files.setdefault(frame.file, []).append(frame)
    for file, members in files.items():
        members = sorted(members, key=lambda frame: frame.number)
        try:
            with quiet():
                decoded = list(_decoded(file, members))
        except InputError:
            raise
        except MemoryError as error:
            raise InputError(
                f"{file}: not enough memory for its pixels, expected a smaller image"
            ) from error
        except Exception as error:
            raise damaged(file, error) from error
        yield from zip(members, decoded, strict=True)


def _decoded(file: DicomFile, frames: Sequence[Frame]) -> Iterator[np.ndarray]:
    import pydicom
    from pydicom.pixels import iter_pixels
    from pydicom.uid import UID

    with open_dicom(file) as stream:
        image: Any = pydicom.dcmread(stream, force=True)
    if "TransferSyntaxUID" not in image.file_meta:  # lost with the preamble: not compressed
        implicit, _ = image.original_encoding
        image.file_meta.TransferSyntaxUID = UID(_PLAIN[bool(implicit)])
    check_streams(file, image)
    if image.BitsAllocated == 1 and not image.file_meta.TransferSyntaxUID.is_compressed:
        yield from (_bits(image, frame.number) for frame in frames)
        return
    single = int(image.get("NumberOfFrames") or 1) <= 1
    plugin = _plugin(image.file_meta.TransferSyntaxUID)
    indices = None if single else [frame.number for frame in frames]
    yield from iter_pixels(image, raw=True, indices=indices, decoding_plugin=plugin)


def _plugin(syntax: Any) -> str:
    """The decoder that survives most damaged streams; "" where the pixels are not compressed.

    Of RLE the fastest one panics; GDCM ends the process more often than all others.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import RLELossless

    if not syntax.is_compressed:
        return ""
    available = get_decoder(syntax).available_plugins
    best = ("pydicom",) if syntax == RLELossless else ("pyjpegls", "pylibjpeg")
    return next((name for name in best if name in available), "")


def _bits(image: Any, number: int) -> np.ndarray:
    """A frame of single bits; frames follow each other without padding to whole bytes."""
    rows, columns = int(image.Rows), int(image.Columns)
    start = number * rows * columns
    end = start + rows * columns
    packed = np.frombuffer(image.PixelData[start // 8 : -(-end // 8)], np.uint8)
    bits = np.unpackbits(packed, bitorder="little")[start % 8 :]
    return bits[: rows * columns].reshape(rows, columns)


def check_streams(file: DicomFile, image: Any) -> None:
    """Compressed images must be of the size that the header declares: decoders allocate theirs.

    Raises:
        InputError: a stream declares another size, or is far longer than its pixels.
    """
    from pydicom.encaps import generate_frames
    from pydicom.uid import RLELossless

    syntax = image.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return
    rows, columns = int(image.Rows), int(image.Columns)
    plain = rows * columns * (int(image.BitsAllocated) // 8)
    count = int(image.get("NumberOfFrames") or 1)
    for stream in generate_frames(image.PixelData, number_of_frames=count):
        if len(stream) > 2 * plain + 2**16:
            raise InputError(
                f"{file}: {len(stream)} bytes for an image of {plain}, expected compressed pixels"
            )
        if not is_whole_jpeg(stream):
            raise InputError(f"{file}: damaged compressed pixels, expected JPEG up to its scan")
        found = None if syntax == RLELossless else stream_size(stream)
        if found not in (None, (rows, columns, 1)):
            raise InputError(
                f"{file}: compressed pixels of {found} rows, columns and colours, expected "
                f"{(rows, columns, 1)} as in the header"
            )


def stream_size(stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and colours that a JPEG, JPEG-LS or JPEG 2000 stream declares; None: none."""
    at = stream.find(b"\xff\x4f\xff\x51", 0, 256)  # JPEG 2000: start, size
    if at >= 0:
        right, bottom, left, top = (_number(stream, at + n, 4) for n in (8, 12, 16, 20))
        return bottom - top, right - left, _number(stream, at + 40, 2)
    if not stream.startswith(b"\xff\xd8"):
        return None
    at = 2
    while stream[at : at + 1] == b"\xff":
        marker = stream[at + 1] if at + 1 < len(stream) else 0
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _FRAMES:
            return (
                _number(stream, at + 5, 2),
                _number(stream, at + 7, 2),
                _number(stream, at + 9, 1),
            )
        else:
            at += 2 + _number(stream, at + 2, 2)
    return None


def is_whole_jpeg(stream: bytes) -> bool:
    """Whether what is JPEG has its segments in order, one frame among them, up to the first scan.

    GDCM ends the process where they are not. Other streams are not judged.
    """
    if not stream.startswith(b"\xff\xd8"):
        return True
    at = 2
    seen: set[int] = set()
    while stream[at : at + 1] == b"\xff":
        marker = stream[at + 1] if at + 1 < len(stream) else 0
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == 0xDA:
            return len(seen & _FRAMES) == 1 and (0xC4 in seen or 0xF7 in seen)
        size = _number(stream, at + 2, 2)
        if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or size < 2:
            return False
        if marker in _FRAMES and not 2 <= _number(stream, at + 4, 1) <= 16:  # bits
            return False
        seen.add(marker)
        at += 2 + size
    return False


def _number(stream: bytes, at: int, size: int) -> int:
    return int.from_bytes(stream[at : at + size], "big")
