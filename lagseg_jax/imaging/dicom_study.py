"""Sorts the images of a DICOM study into stacks, each of which could be one volume.

A series holds one stack, or several with images at the same positions: magnitude and PSIR, echoes,
phases of the heart, time points. All functions work on headers; no pixel is read.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lagseg_jax.imaging.dicom_files import DicomFile, dicom_files
from lagseg_jax.imaging.dicom_geometry import (
    check_image,
    check_instances,
    check_spacing,
    series_affine,
    sort_slices,
    unless_allowed,
)
from lagseg_jax.imaging.dicom_header import Frame, Header, is_image, kind_name, read_frames
from lagseg_jax.runtime.errors import InputError

log = logging.getLogger(__name__)

SCREEN = "picture of a screen"
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # and below it: captures
_KINDS = {  # word of ImageType or ComplexImageComponent -> what the stack is called
    "F": "fat image",  # Philips; of Dixon, as those below
    "FAT": "fat image",
    "FF": "map",
    "FAT_FRACTION": "map",
    "WATER_FRACTION": "map",
    "T2_STAR": "map",
    "R2_STAR": "map",
    "IP": "in-phase image",
    "IN_PHASE": "in-phase image",
    "OP": "opposed-phase image",
    "OPP_PHASE": "opposed-phase image",
    "OUT_PHASE": "opposed-phase image",
    "W": "water image",
    "WATER": "water image",
    "PSIR": "PSIR",
    "CR": "PSIR",  # Philips: corrected real
    "P": "phase image",
    "PHASE": "phase image",
    "VELOCITY": "phase image",
    "R": "real part",
    "REAL": "real part",
    "I": "imaginary part",
    "IMAGINARY": "imaginary part",
    "M": "magnitude",
    "MAGNITUDE": "magnitude",
}


@dataclass(frozen=True, eq=False)
class Stack:
    """The images of one volume: a DICOM series, or the part of one with an image per position.

    Attributes:
        selector: what `--series` takes for it: the series' number, and for a part ".1", ".2", ...
        part: what tells it from the other parts; "" for a whole series.
        parts: how many its series has.
        frames: along the normal of the images, where they could be sorted.
        folder: that all its files lie in.
        affine: (4, 4), voxel index -> RAS mm; None where `problem` says why there is none.
        problem: why it cannot be read; "" where it can.
        found: what was found of its images that is no reason to refuse them.
    """

    selector: str
    part: str
    parts: int
    frames: tuple[Frame, ...]
    folder: Path
    affine: np.ndarray | None
    problem: str = ""
    found: tuple[str, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """What is to be said when it is read."""
        said, modality = list(self.found), self.header.get("Modality", "")
        if modality != "MR":
            said.append(f"modality {modality!r} found, expected MR")
        if self.header.get("LossyImageCompression") == "01":
            said.append("its images were compressed with loss")
        return said

    @property
    def header(self) -> Header:
        """That of the first image."""
        return self.frames[0].header

    @property
    def uid(self) -> str:
        """Of its series."""
        return self.header.get("SeriesInstanceUID", "")

    @property
    def description(self) -> str:
        """Of its series and part."""
        words = (self.header.get("SeriesDescription", "no description"), self.part)
        return ", ".join(word for word in words if word)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (x, y, z)."""
        header = self.header
        return header.get("Columns", 0), header.get("Rows", 0), len(self.frames)

    @property
    def key(self) -> list:
        """What identifies it for good: UIDs of study and series, and which part."""
        return [self.header.get("StudyInstanceUID", ""), self.uid, self.selector, self.part]


def find_studies(path: Path, allow: Sequence[str] = ()) -> list[list[Stack]]:
    """The stacks of every study in a folder, zip archive or file, without what is no image.

    Args:
        path: of a folder, its subfolders included, a zip archive or one file.
        allow: "instances" accepts numbers of images with gaps, "spacing" a SpacingBetweenSlices
            that contradicts the positions, which then count.

    Raises:
        InputError: no pydicom, a damaged archive, or damaged files and nothing else.
    """
    frames, broken = [], {}
    for file in dicom_files(path):
        try:
            found = read_frames(file)
            frames += found if _is_taken(found[0]) else []
        except InputError as error:
            broken[file] = error
    frames = _without_copies(frames)
    if not frames and broken:
        raise next(iter(broken.values()))
    studies: list[list[Stack]] = []
    for study in _grouped(frames, lambda h: h.get("StudyInstanceUID", "")).values():
        series = _grouped(study, lambda h: h.get("SeriesInstanceUID", "")).values()
        stacks = [stack for one in series for stack in stacks_of(one, allow, broken)]
        studies.append(sorted(stacks, key=_order))
    return sorted(studies, key=lambda stacks: min(str(stack.folder) for stack in stacks))


def _order(stack: Stack) -> tuple:
    number = int(stack.header.get("SeriesNumber", 10**9))
    return number, stack.uid


def _is_taken(frame: Frame) -> bool:
    if is_image(frame.header):
        return True
    log.info("%s: skipped, it is no image of a series (%s)", frame.file, kind_name(frame.header))
    return False


def _without_copies(frames: Iterable[Frame]) -> list[Frame]:
    """Each image once: exports often have an image in two folders."""
    seen: dict[Any, Frame] = {}
    for frame in frames:
        header = frame.header
        uid = header.get("SOPInstanceUID") or id(frame)
        place = header.get("ImagePositionPatient"), header.get("InstanceNumber")
        key = uid, header.get("SeriesInstanceUID"), frame.number, place
        if seen.setdefault(key, frame) is not frame:
            log.info("%s: skipped, a copy of %s", frame, seen[key])
    return list(seen.values())


def _grouped(frames: Iterable[Frame], key: Callable[[Header], Any]) -> dict[Any, list[Frame]]:
    groups = defaultdict(list)
    for frame in frames:
        groups[key(frame.header)].append(frame)
    return dict(sorted(groups.items(), key=lambda item: str(item[0])))


def stacks_of(
    frames: Sequence[Frame],
    allow: Sequence[str] = (),
    broken: dict[DicomFile, InputError] | None = None,
) -> list[Stack]:
    """The stacks of one series; `broken` are files that may have been of it."""
    folder = Path(os.path.commonpath([str(frame.file.parent) for frame in frames]))
    folders = {str(frame.file.parent) for frame in frames}
    lost = [str(e) for file, e in (broken or {}).items() if str(file.parent) in folders]
    parts = split(frames)
    stacks = []
    for number, (part, members) in enumerate(parts.items(), 1):
        selector = str(members[0].header.get("SeriesNumber", "?"))
        selector += f".{number}" * (len(parts) > 1)
        affine, problem = None, ""
        said: tuple[str, ...] = ()
        try:
            if lost:
                raise InputError(lost[0])
            for frame in members:
                check_image(frame, members[0])
            members, step = sort_slices(folder, members)
            found = series_affine(members[0].header, step)
            # The parts of a series share the numbers, but those of an enhanced one do not.
            enhanced = members[0].header.get("NumberOfFrames", 1) > 1
            numbered = members if enhanced else frames
            said = unless_allowed(
                allow,
                instances=partial(check_instances, folder, numbered),
                spacing=partial(check_spacing, folder, members, found),
            )
            affine = found
        except InputError as error:
            problem = str(error)
        except (ValueError, TypeError, KeyError, ArithmeticError, np.linalg.LinAlgError) as error:
            problem = f"{folder}: damaged ({type(error).__name__}), expected numbers in its headers"
        about = selector, part, len(parts), tuple(members), folder
        stacks.append(Stack(*about, affine, problem, said))
    return stacks


def split(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    """{what it is: its images}: parts of a series that have one image at each position.

    Kinds of images are always parted. The rest only where a position has several images, and by
    a value of the header that gives each part every position.
    """
    kinds = _grouped(frames, kind_of)
    parts: dict[str, list[Frame]] = {}
    for kind, members in kinds.items():
        for name, part in _split_repeated(members).items():
            named = [kind] * (len(kinds) > 1 and bool(kind)) + [name] * bool(name)
            parts[", ".join(named) or ("other" if len(kinds) > 1 else "")] = part
    return parts


def _split_repeated(frames: list[Frame]) -> dict[str, list[Frame]]:
    places = _grouped(frames, _place)
    if max(map(len, places.values())) == 1:
        return {"": frames}
    for name, key in _PARTS.items():
        groups = _grouped(frames, key)
        whole = all(set(_grouped(group, _place)) == set(places) for group in groups.values())
        if len(groups) > 1 and whole:
            return {
                ", ".join(word for word in (f"{name} {_short(value)}", deeper) if word): part
                for value, group in groups.items()
                for deeper, part in _split_repeated(group).items()
            }
    return _phases(list(places.values())) or {"": frames}


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _phases(places: list[list[Frame]]) -> dict[str, list[Frame]]:
    """By the order of times at each position, which need not be the same everywhere."""
    count = len(places[0])
    for name, missing in (("TriggerTime", 0.0), ("AcquisitionTime", "")):
        times = [[frame.header.get(name, missing) for frame in place] for place in places]
        if all(len(found) == len(set(found)) == count for found in times):
            ranked = [[place[n] for n in np.argsort(t)] for place, t in zip(places, times)]
            return {f"phase {n + 1} of {count}": [r[n] for r in ranked] for n in range(count)}
    return {}


def kind_of(header: Header) -> str:
    """Magnitude, PSIR, phase image, ...; "" where the header does not say."""
    if header["SOPClassUID"].startswith(_SECONDARY):
        return SCREEN
    words = [*header.get("ImageType", ())[2:], header.get("ComplexImageComponent", "")]
    known = {word.upper() for word in words}
    return next((kind for word, kind in _KINDS.items() if word in known), "")


def _place(header: Header) -> tuple:
    """Where an image lies, to a hundredth of a millimetre."""
    names = "ImagePositionPatient", "ImageOrientationPatient"
    return tuple(round(x, 2) if abs(x) < 1e9 else 0 for n in names for x in header.get(n, ()))


# What may tell images at one position apart, in the order in which it is tried.
_PARTS: dict[str, Callable[[Header], Any]] = {
    "type": lambda h: "/".join(h.get("ImageType", ())),
    "echo": lambda h: h.get("EchoTime", h.get("EchoNumbers", 0)),
    "time point": lambda h: h.get("TemporalPositionIdentifier", 0),
    "phase of the heart at %": lambda h: h.get("NominalPercentageOfCardiacPhase", 0),
    "delay in ms": lambda h: h.get("TriggerTime", 0),
    "inversion time in ms": lambda h: h.get("InversionTime", 0),
    "acquisition": lambda h: h.get("AcquisitionNumber", 0),
    "stack": lambda h: h.get("StackID", ""),
}
