"""The layouts that are recognised, and what is said of a folder that has none of them."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from lagseg_jax.data.cases import Recognised, visible
from lagseg_jax.data.layouts.dicom_folders import series_beside_labels, series_per_patient
from lagseg_jax.data.layouts.pairs import (
    IMAGE_WORDS,
    folder_per_patient,
    images_beside_labels,
    is_label,
    line_of_folders,
    pairs_in_a_folder,
    pairs_in_folders,
)
from lagseg_jax.data.layouts.published import challenge_2018, decathlon, lascarqs, nnunet
from lagseg_jax.imaging.volume import case_name, is_volume_file
from lagseg_jax.runtime.errors import InputError


@dataclass(frozen=True)
class Layout:
    """One way to name files.

    Attributes:
        name: of the layout.
        image: an example of an image's path.
        label: of its label's.
        read: takes a folder and returns what it recognises there, or None.
        line: the patterns of images and labels that say the same, to be copied.
    """

    name: str
    image: str
    label: str
    read: Callable[[Path], Recognised | None]
    line: tuple[str, str] = ("", "")

    @property
    def files(self) -> str:
        """Both examples in words."""
        return f"{self.image} and {self.label}"


# The first that recognises a folder has it.
LAYOUTS = [
    Layout("LAScarQS 2022", "train_1/enhanced.nii.gz", "train_1/atriumSegImgMO.nii.gz", lascarqs),
    Layout(
        "2018 Atrial Segmentation Challenge", "ID/lgemri.nrrd", "ID/laendo.nrrd", challenge_2018
    ),
    Layout("nnU-Net raw", "imagesTr/CASE_0000.nii.gz", "labelsTr/CASE.nii.gz", nnunet),
    Layout("MSD Task02", "imagesTr/la_003.nii.gz", "labelsTr/la_003.nii.gz", decathlon),
]
# Read from the words in the names, and only where no folder is of a layout above.
NAMINGS = [
    Layout(
        "two folders",
        *("images/CASE.nii.gz", "labels/CASE.nii.gz", images_beside_labels),
        ("images/*", "labels/*"),
    ),
    Layout(
        "one folder per patient",
        *("ID/lge.nii.gz", "ID/la.nii.gz", folder_per_patient),
        ("*/lge.nii.gz", "*/la.nii.gz"),
    ),
    Layout(
        "pairs of files",
        *("CASE_image.nii.gz", "CASE_mask.nii.gz", pairs_in_a_folder),
        ("*_image.nii.gz", "*_mask.nii.gz"),
    ),
    Layout(
        "pairs of files in several folders",
        *("2018/CASE_image.nii.gz", "2018/CASE_mask.nii.gz", pairs_in_folders),
        ("*_image.nii.gz", "*_mask.nii.gz"),
    ),
]
# Their labels make them datasets; without any they are scans, which `predict` finds by itself.
SERIES = [
    Layout(
        "DICOM series beside labels",
        *("images/CASE/1.dcm", "labels/CASE.nii.gz", series_beside_labels),
    ),
    Layout("one DICOM series per patient", "ID/1.dcm", "ID/la_seg.nii.gz", series_per_patient),
]


def unknown_layout(root: Path, option: str) -> InputError:
    """What to say of a folder without a layout: the nearest two, and the line that names files."""
    layouts = LAYOUTS + NAMINGS + SERIES
    names = [entry.name for entry in visible(root)]
    if not names:
        known = "; ".join(f"{layout.name}: {layout.files}" for layout in layouts)
        return InputError(f"{root}: an empty folder found, expected one of {known}.")
    files = list(islice(_files(root), 300))
    ranked = sorted(layouts, key=lambda layout: -_likeness(layout, files))
    nearest = (f"{layout.name} ({_lack(layout, files)})" for layout in ranked[:2])
    own = line_of_folders(root) or _own_line(files)
    images, labels = own or next(one.line for one in ranked if one in NAMINGS)
    option = option.lstrip("-")
    return InputError(
        f"{root}: an unknown layout ({', '.join(names[:5])}{', ...' * bool(names[5:])}) found, "
        f"nearest to {' and to '.join(nearest)}, expected one of those in docs/own-data.md or the "
        f"names of the files, such as --{option}images='{images}' --{option}labels='{labels}', "
        f"or a table (--{option}images=cases.csv)."
    )


def _own_line(files: Sequence[str]) -> tuple[str, str] | None:
    """The patterns that name the most of these files, for images and for labels; None for none."""
    volumes = [file for file in files if is_volume_file(Path(file))]
    folder_each = Counter(f"*/{file.split('/')[1]}" for file in volumes if file.count("/") == 1)
    stems = [(file, case_name(Path(file))) for file in volumes]
    endings = Counter(
        f"*{found[0]}{Path(file).name[len(stem) :]}"
        for file, stem in stems
        if (found := re.search(r"(?<=.)[\-_. ][^\W\d_]\w*?$", stem))
    )
    counts = max(folder_each, endings, key=lambda one: max(one.values(), default=0))
    most = [pattern for pattern, _ in counts.most_common(2)]
    if len(most) < 2 or max(counts.values()) < 2:
        return None
    images, labels = sorted(most, key=_label_last)
    return images, labels


def _label_last(pattern: str) -> int:
    stem = pattern.split(".")[0]
    return is_label(stem) - bool(IMAGE_WORDS & set(re.findall("[a-z]+", stem.lower())))


def _files(root: Path) -> Iterator[str]:
    """The paths of the files in `root` and three levels below it."""
    levels = [root]
    for _ in range(4):
        entries = [entry for folder in levels for entry in visible(folder)]
        yield from (str(entry.relative_to(root)) for entry in entries if not entry.is_dir())
        levels = [entry for entry in entries if entry.is_dir()]


def _likeness(layout: Layout, files: list[str]) -> float:
    """How much of a layout is there: 1 for each of its two names, less for names that are like."""
    return sum(
        1.0 if _there(example, files) else 0.9 * max((_alike(example, f) for f in files), default=0)
        for example in (layout.image, layout.label)
    )


def _lack(layout: Layout, files: list[str]) -> str:
    missing = [one for one in (layout.image, layout.label) if not _there(one, files)]
    return f"no {' and no '.join(missing)}" if missing else "names that do not pair"


def _there(example: str, files: list[str]) -> bool:
    pattern = re.sub("train_1|la_003|CASE|ID|2018", "*", example)
    return any(fnmatchcase(file, pattern) or fnmatchcase(file, f"*/{pattern}") for file in files)


def _alike(example: str, file: str) -> float:
    """How like the end of a path is to an example; less where it lies deeper or less deep."""
    parts, count = file.split("/"), len(example.split("/"))
    ratio = difflib.SequenceMatcher(None, example, "/".join(parts[-count:])).ratio()
    return ratio * (1.0 if len(parts) == count else 0.6)
