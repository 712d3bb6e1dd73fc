"""Says which stack of a DICOM study is the late gadolinium enhancement, and why others are not."""

import fnmatch
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from lagseg_jax.imaging.dicom_header import Header, kind_name
from lagseg_jax.imaging.dicom_pixels import missing_decoder
from lagseg_jax.imaging.dicom_study import SCREEN, Stack, find_studies, kind_of
from lagseg_jax.imaging.grid import column_lengths
from lagseg_jax.runtime.errors import InputError

log = logging.getLogger(__name__)

_MANY_PHASES = 4  # more are a film of the beating heart
_FEW_SLICES = 8


def _words(*alternatives: str) -> re.Pattern:
    """Matches whole words; digits and signs part words, too."""
    return re.compile(rf"(?<![a-z])(?:{'|'.join(alternatives)})(?![a-z])")


_LGE = _words(
    *("d?lge", "late", "delayed", "[23]d ?de", "de ?mri?", "mde", "dhe", "lgad", "ce ?mri", "psir"),
    *("viab[a-z]*", "scar", "fibrosis", "enhance[a-z]*"),
)
_ATRIUM = _words("la", "left ?atri[a-z]*", "atri[a-z]*", "pvs?", "pulm[a-z]*", "navi?[a-z]*")
_OTHER_VIEW = _words("sa", "sax", "ch", "short ?axis", "long ?axis", "lax", "mpr", "reformat[a-z]*")
# What a stack is by the words of its name: with these it is no LGE even where it is named so, ...
_NOT_LGE = {
    "a localizer": _words("locali[sz]er", "scouts?", "survey", "loc", "planning", "ti ?scout"),
    "a film of the heart": _words("cine", "tagging"),
    "an angiography": _words("c?e?mra", "angio[a-z]*", "twist", "tricks", "time ?resolved"),
    "a map": _words("t[12] ?map[a-z]*", "maps?", "[a-z]*molli", "ecv", "sasha"),
    "a perfusion": _words("perf[a-z]*", "first ?pass"),
    "a flow measurement": _words("flow", "venc", "velocity", "phase ?contrast"),
    "a projection": _words("mip", "proj[a-z]*", "subtract[a-z]*"),
}
# ... and with these where it is not.
_NOT_NAMED_LGE = {
    "a film of the heart": _words("trufi", "b?ssfp", "fiesta", "b?tfe"),
    "another weighting": _words("t2w?", "stir", "(?:dark|black) ?blood", "haste", "dwi", "adc"),
    "a calibration": _words("ti ?test", "look ?locker", "calibration", "ref(?:erence)? ?scan"),
}


def unsuitable(stack: Stack) -> str:
    """What the stack is instead of LGE, as its header says; "" if nothing speaks against it."""
    header, kind = stack.header, kind_of(stack.header)
    types = {word.upper() for word in header.get("ImageType", ())}
    if kind == SCREEN:
        return f"a {SCREEN} ({kind_name(header)})"
    if header.get("Modality", "MR") not in ("MR", "CT"):
        return f"modality {header['Modality']}"
    if header.get("SamplesPerPixel", 1) != 1:
        return "in colour"
    if "LOCALIZER" in types:
        return "a localizer"
    if types & {"PROJECTION IMAGE", "MIP", "MAX_IP", "MPR_THICK"}:
        return "a projection"
    if kind in ("phase image", "imaginary part", "fat image", "map"):
        return f"a {kind}".replace("a im", "an im")
    if stack.parts > _MANY_PHASES:
        return f"a film of {stack.parts} parts"
    text, tables = _text(header), [*_NOT_LGE.items(), *_NOT_NAMED_LGE.items()]
    if _LGE.search(text):  # its protocol may name what it comes after
        text, tables = _apart(header.get("SeriesDescription", "")), [*_NOT_LGE.items()]
    return next((what for what, words in tables if words.search(text)), "")


def is_named(stack: Stack) -> bool:
    """Whether its names say LGE."""
    return bool(_LGE.search(_text(stack.header)))


def points(stack: Stack) -> int:
    """How much speaks for late gadolinium enhancement of the left atrium."""
    header, text = stack.header, _text(stack.header)
    named = 4 * is_named(stack)
    inverted = header.get("InversionTime", 0) > 0 or "IR" in header.get("ScanningSequence", ())
    whole_atrium = bool(_ATRIUM.search(text)) + (header.get("MRAcquisitionType") == "3D")
    other_view = bool(_OTHER_VIEW.search(text)) + (len(stack.frames) < _FEW_SLICES)
    derived = "DERIVED" in header.get("ImageType", ())[:1]
    not_magnitude = kind_of(header) not in ("", "magnitude", "water image")
    return named + inverted + whole_atrium - 2 * other_view - derived - not_magnitude


def _text(header: Header) -> str:
    """All names of a series."""
    names = "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName"
    return " ".join(_apart(header.get(name, "")) for name in names)


def _apart(name: str) -> str:
    """In lower case, words apart."""
    return re.sub(r"[^a-z0-9]+", " ", name.lower())


def why_not(stack: Stack) -> str:
    """Why a stack is not to be predicted; "" if it may be."""
    return unsuitable(stack) or stack.problem or missing_decoder(stack)


def choose(place: object, stacks: Sequence[Stack], series: str = "") -> Stack:
    """The stack to predict.

    Args:
        place: of the study, for messages.
        stacks: of one study.
        series: a number, UID or pattern of a description that decides by hand.

    Raises:
        InputError: none or several could be meant, or the one that is meant cannot be read.
    """
    if not stacks:
        raise InputError(f"{place} holds no DICOM images, expected those of one study")
    if series:
        wanted = _named(place, stacks, series)
    else:
        wanted = [stack for stack in stacks if not unsuitable(stack)]
        if not wanted:
            raise InputError(
                f"{place} has no series that could be LGE: {brief(stacks)}; expected one, or its "
                "name with --series=NUMBER"
            )
    ranked = sorted(wanted, key=points, reverse=True)
    best = ranked[0]
    rivals = [one for one in ranked if points(one) == points(best) and _kind(one) != _kind(best)]
    several = len({one.uid for one in ranked}) > 1
    if rivals or (several and (series or not is_named(best))):
        raise InputError(
            f"{place} has several series that could be meant: {brief(ranked)}; expected the name "
            "of one with --series=NUMBER or --series=UID"
        )
    if problem := best.problem or missing_decoder(best):
        raise InputError(problem)
    return best


def _kind(stack: Stack) -> tuple:
    """Equal for parts of a series that differ in time alone; of others, none may be guessed."""
    return stack.uid, stack.header.get("ImageType")


def take(place: object, stacks: Sequence[Stack], series: str = "") -> Stack:
    """`choose`, with a line for every stack, taken or not; the whole list where none is."""
    try:
        chosen = choose(place, stacks, series)
    except InputError:
        for line in listing(stacks):
            log.info("%s", line)
        raise
    for stack in _told(stacks, chosen):
        about = stack.selector, stack.description, len(stack.frames)
        if stack is chosen:
            log.info("series %s (%s, %d images): taken, %s", *about, verdict(stack))
        else:
            why = why_not(stack) or f"series {chosen.selector} is the likelier one"
            log.info("series %s (%s, %d images): skipped, %s", *about, why)
    return chosen


def _named(place: object, stacks: Sequence[Stack], series: str) -> list[Stack]:
    def meant(stack: Stack) -> bool:
        number = stack.selector.partition(".")[0]
        text = stack.description.lower()
        pattern = fnmatch.fnmatchcase(text, series.lower())
        return series in (stack.selector, number, stack.uid) or pattern

    found = [stack for stack in stacks if meant(stack)]
    if not found:
        raise InputError(
            f"--series is {series!r}, but {place} has {brief(stacks)}; expected the number, the "
            "UID or a pattern ('*LGE*') of one"
        )
    return found


def brief(stacks: Sequence[Stack]) -> str:
    """The stacks in one line, for messages."""
    numbers = [stack.selector for stack in stacks]
    listed = []
    for stack in stacks[:20]:
        uid = f", UID {stack.uid}" * (numbers.count(stack.selector) > 1)
        listed.append(f"{stack.selector} ({stack.description}, {len(stack.frames)} images{uid})")
    return ", ".join(listed) + ", ..." * (len(stacks) > 20)


def listing(stacks: Sequence[Stack], chosen: Stack | None = None) -> list[str]:
    """A table of the stacks, a line each: number, size, spacing in mm, description, verdict."""
    rows = [("series", "voxels", "spacing in mm", "description", "")]
    for stack in _told(stacks, chosen):
        mark = "* " if stack is chosen else "  "
        spacing = "-"
        if stack.affine is not None:
            spacing = " x ".join(f"{mm:.3g}" for mm in column_lengths(stack.affine))
        voxels = " x ".join(map(str, stack.shape))
        rows.append((mark + stack.selector, voxels, spacing, stack.description, verdict(stack)))
    rows[0] = (f"  {rows[0][0]}", *rows[0][1:])
    widths = [min(max(len(row[n]) for row in rows), 40) for n in range(4)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[4]]).rstrip()
        for row in rows
    ]


def study_text(path: Path) -> list[str]:
    """The listing of every study at a path, and which stack would be predicted.

    Raises:
        InputError: as `find_studies`, or there is none.
    """
    studies = find_studies(path)
    if not studies:
        raise InputError(f"{path} holds no DICOM images, expected those of a study")
    lines = []
    for number, stacks in enumerate(studies, 1):
        chosen = None
        try:
            chosen = choose(path, stacks)
            said = f"predict takes {chosen.selector} (*)"
        except InputError as error:
            said = f"none is taken: {error}"
        lines += [f"study {number} of {len(studies)}, {len(stacks)} stacks of images:"]
        lines += [*listing(stacks, chosen), said]
    return lines


def _told(stacks: Sequence[Stack], chosen: Stack | None) -> list[Stack]:
    """Of a film the first picture only, unless another is chosen."""
    told: dict[str, Stack] = {}
    for stack in stacks:
        if stack.parts <= _MANY_PHASES or stack is chosen:
            told[f"{stack.uid} {stack.selector}"] = stack
        else:
            told.setdefault(stack.uid, stack)
    return list(told.values())


def verdict(stack: Stack) -> str:
    """Whether a stack is suitable, and why not, in a few words."""
    if reason := why_not(stack):
        return f"not suitable: {reason}"
    return "LGE by its name" if is_named(stack) else "could be LGE, is not named so"
