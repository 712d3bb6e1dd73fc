"""Mutated DICOM files, folders and archives against the reader, with a cap on memory.

    python tests/faults/fuzz_dicom.py [--count=5000] [--seed=0]

As fuzz_volumes.py: every case gives a valid volume or one sentence (InputError) that names it, and
a series that can be read gives a segmentation object and a structure set, or such a sentence. The
decoders are C and C++: a crash of theirs is seen from here. No message, log line or warning may
have what stands in the patient's fields, which hold markup.
"""

import io
import logging
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "helpers")]
import dicom_series
import fuzz_volumes
from fuzz_volumes import CAP, NUMBERS
from lagseg_jax.imaging.dicom import read_series, read_stack
from lagseg_jax.imaging.dicom_choice import choose, study_text
from lagseg_jax.imaging.dicom_derived import Algorithm
from lagseg_jax.imaging.dicom_segmentation import write_segmentation
from lagseg_jax.imaging.dicom_structures import write_structures
from lagseg_jax.imaging.dicom_study import find_studies
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.runtime.errors import InputError

SHAPE = (3, 37, 41)  # slices, rows, columns
SECRET = "Qzxw"  # of the patient's name
SYNTAXES = (RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1)
OBJECTS = {"segmentation": write_segmentation, "structures": write_structures}
KEYWORDS = """Rows Columns NumberOfFrames BitsAllocated BitsStored HighBit SamplesPerPixel
    PixelRepresentation InstanceNumber SeriesNumber RescaleSlope RescaleIntercept PixelSpacing
    ImagePositionPatient ImageOrientationPatient SliceThickness SpacingBetweenSlices ImageType
    PhotometricInterpretation FrameOfReferenceUID PatientName StudyDate SOPClassUID
    SeriesInstanceUID SeriesDescription Modality TriggerTime TemporalPositionIdentifier EchoTime
    InversionTime AcquisitionTime""".split()
KINDS = "bytes head cut insert repeat nested value value value stream stream".split()
# A sequence and an item in it, both of undefined length, and their ends.
OPEN = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
CLOSE = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
TEXTS = (
    "",
    "nan",
    "inf",
    "-1",
    "1e308",
    "1\\2",
    "\\" * 300,
    "<script>1</script>",
    "9" * 60,
    "a" * 5000,
    "1.2",
)


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Small intact cases: {kind: the content of its files}."""
    pixels = np.random.default_rng(0).integers(0, 4096, SHAPE).astype(np.uint16)
    about = {"PatientName": f"{SECRET}^<img src=x onerror=alert(1)>", "PatientID": SECRET}
    about |= {"PatientComments": f"{SECRET}</script><script>alert(1)</script>"}
    cases = {"single": dicom_series.write_series(folder / "s", pixels, **about)}
    cases["enhanced"] = [dicom_series.write_enhanced(folder / "e" / "x.dcm", pixels, **about)]
    for syntax in SYNTAXES:
        paths = dicom_series.write_series(folder / syntax.name[:9], pixels, **about)
        for path in paths:
            dicom_series.compress(path, syntax)
        cases[syntax.name.partition(" Im")[0].partition(",")[0]] = paths
    ((stack,),) = find_studies(folder / "s")
    mask = (read_stack(stack).array > 2000).astype(np.uint8)
    for kind, write in OBJECTS.items():
        write(folder / f"{kind}.dcm", mask, stack, Algorithm("1", "2"))
        cases[kind] = [folder / f"{kind}.dcm"]
    return {kind: [path.read_bytes() for path in paths] for kind, paths in cases.items()}


def mutated(rng: np.random.Generator, content: bytes) -> bytes:
    """One file with one to three mutations."""
    for _ in range(rng.integers(1, 4)):
        kind = rng.choice(KINDS)
        at = int(rng.integers(len(content) or 1))
        changed = bytearray(content)
        if kind in ("bytes", "head"):
            end = len(content) if kind == "bytes" else min(1500, len(content))
            for _ in range(rng.integers(1, 9)):
                changed[int(rng.integers(end))] = rng.integers(256)
        elif kind == "cut":
            del changed[at:]
        elif kind == "insert":
            changed[at:at] = rng.bytes(int(rng.integers(1, 30)))
        elif kind == "nested":
            start = content.find(b"\x10\x00\x10\x00PN")  # before the patient's name
            depth = int(rng.choice([3, 50, 400, 5000]))
            closed = rng.random() < 0.5
            changed[start:start] = OPEN * depth + CLOSE * depth * closed
        elif kind == "repeat":
            changed += changed[at:] * int(rng.integers(1, 20))
        else:
            changed = _parsed(rng, content, kind)
        content = bytes(changed)
        if len(content) < 140:
            break
    return content


def _parsed(rng: np.random.Generator, content: bytes, kind: str) -> bytes:
    """With a hostile value, or a hostile pixel stream; as it was where it cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(content), force=True)
            changed = _hostile_value if kind == "value" else _hostile_stream
            changed(rng, dataset)
            stream = io.BytesIO()
            dataset.save_as(stream)
        return stream.getvalue()
    except Exception:
        return content


def _hostile_value(rng: np.random.Generator, dataset: Dataset) -> None:
    keyword = KEYWORDS[rng.integers(len(KEYWORDS))]
    actions = ["number", "text", "drop", "private", "bomb"]
    action = rng.choice(actions, p=[0.4, 0.35, 0.15, 0.05, 0.05])
    vr = pydicom.datadict.dictionary_VR(keyword)
    if action == "drop" and keyword in dataset:
        del dataset[keyword]
    elif action == "number":
        value = int(NUMBERS[rng.integers(len(NUMBERS))])
        value = value % 2**16 if vr == "US" else value
        dataset.add_new(keyword, vr, str(value) if vr not in ("US", "UL") else value)
    elif action == "text":
        text = TEXTS[rng.integers(len(TEXTS))]
        dataset.add_new(keyword, rng.choice(["LO", "UT"]) if vr in ("US", "UL") else vr, text)
    elif action == "private":
        dataset.add_new((0x0009, 0x0010), "LO", "x")
        dataset.add_new((0x0009, 0x1001), "UN", rng.bytes(int(rng.integers(1, 2**16))))
    elif action == "bomb":
        packed = zlib.compressobj(9, zlib.DEFLATED, -15)
        zeros = packed.compress(bytes(2**26)) + packed.flush()
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        dataset.PixelData = zeros


def _hostile_stream(rng: np.random.Generator, dataset: Dataset) -> None:
    """The compressed pixels of one image, damaged as bytes, still in their wrapping."""
    streams = [bytearray(one) for one in generate_frames(dataset.PixelData, number_of_frames=1)]
    for stream in streams:
        for _ in range(rng.integers(1, 9)):
            near = rng.random() < 0.6
            stream[int(rng.integers(min(80, len(stream)) if near else len(stream)))] = rng.integers(
                256
            )
        if rng.random() < 0.2:
            del stream[int(rng.integers(len(stream))) :]
    dataset.PixelData = encapsulate([bytes(stream) for stream in streams])


def attempt(path: Path, cap: int = CAP) -> tuple[str, int]:
    """Reads a case as `predict`, `info` and a label do: what came of it; peak bytes."""
    outcome = "volume"
    tracemalloc.start()
    try:
        volume = (
            read_volume(path, Reading(cap)) if path.suffix == ".dcm" else read_series(path, cap)
        )
        if volume.array.ndim != 3 or not np.isfinite(volume.affine).all():
            outcome = f"invalid volume {volume.array.shape}"
    except InputError as error:
        outcome = "refused"
        text = str(error)
        if "\n" in text or str(path) not in text or "expected" not in text or SECRET in text:
            outcome = f"not one sentence that names the case and no patient: {text}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if outcome == "volume" and path.suffix != ".dcm":
        outcome = written(path)
    try:
        said = "".join(study_text(path))
        if SECRET in said:
            outcome = "info shows a patient"
    except InputError:
        pass
    except BaseException as error:
        outcome = f"in info: {type(error).__name__}: {error}"
    return outcome, peak


def written(path: Path) -> str:
    """What came of writing objects that refer to the series of a case: "volume" if all is well."""
    ((*stacks,),) = find_studies(path)
    stack = choose(path, stacks)
    mask = np.random.default_rng(0).random(stack.shape) > 0.5
    for kind, write in OBJECTS.items():
        try:
            with tempfile.TemporaryDirectory() as place:
                write(Path(place) / "made.dcm", mask, stack, Algorithm("1", "2"))
        except InputError as error:
            if "expected" not in str(error) or SECRET in str(error):
                return f"{kind}: not one sentence without a patient: {error}"
        except BaseException as error:
            return f"{kind}: {type(error).__name__}: {error}"
    return "volume"


def campaign(count: int, seed: int, folder: Path) -> Iterator[tuple[str, bytes, str, int, float]]:
    """Yields kind, mutated content, outcome, peak bytes and seconds of every mutation."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as place:
        cases = seeds(Path(place))
    logging.getLogger().addHandler(logging.NullHandler())
    for number in range(count):
        kind = sorted(cases)[rng.integers(len(cases))]
        contents = list(cases[kind])
        which = int(rng.integers(len(contents)))
        contents[which] = mutated(rng, contents[which])
        path = folder / f"case {number}"
        if kind in OBJECTS:
            path = path.with_suffix(".dcm")
            path.write_bytes(contents[0])
        elif rng.random() < 0.2:
            path = path.with_suffix(".zip")
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
                for name, content in enumerate(contents):
                    opened.writestr(f"{name}", content)
            kind = "archive"
        else:
            path.mkdir()
            for name, content in enumerate(contents):
                (path / f"{name}").write_bytes(content)
        start = time.process_time()  # of a busy machine, too
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            outcome, peak = attempt(path)
        if said:
            outcome = f"said more than its sentence: {said[0].message}"
        yield kind, contents[which], outcome, peak, time.process_time() - start


if __name__ == "__main__":
    sys.exit(fuzz_volumes.main(campaign))
