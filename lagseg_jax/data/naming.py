"""Finds the cases of a dataset by two patterns, one for the images and one for the labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lagseg_jax.data.cases import Case, numeric, visible
from lagseg_jax.imaging.volume import SUFFIXES, case_name, is_volume_file
from lagseg_jax.runtime.errors import InputError


@dataclass(frozen=True)
class Pattern:
    """The names of some files below a folder, such as `images/*_lge.nii.gz`.

    Attributes:
        text: its wildcard stands for the name of a case; everything else is meant literally.
        option: that gave it, for messages.
    """

    text: str
    option: str

    def __post_init__(self) -> None:
        if self.text.count("*") != 1:
            found = self.text.count("*") or "no"
            raise InputError(
                f"{self.option} is {self.text!r} with {found} wildcards, expected exactly one, the "
                "name of the case, such as '*_image.nii.gz' or 'images/*'"
            )
        if self.text.startswith("/") or ".." in self.text.split("/"):
            raise InputError(
                f"{self.option} is {self.text!r}, which leaves the dataset's folder, expected a "
                "pattern below it"
            )

    def path(self, root: Path, name: str, suffix: str) -> Path:
        """Where the file of a case ought to be; a `*` at the end stands for its type, too."""
        return root / (self.text.replace("*", name) + suffix * self.text.endswith("*"))

    def matches(self, root: Path) -> dict[str, Path]:
        """{case: volume file} in numeric order; raises InputError for a case twice."""
        parts = [part for part in self.text.split("/") if part not in ("", ".")]
        at = next(number for number, part in enumerate(parts) if "*" in part)
        before, after = parts[at].split("*")
        found: dict[str, Path] = {}
        for entry in visible(root.joinpath(*parts[:at])):
            path = entry.joinpath(*parts[at + 1 :])
            fits = entry.name.startswith(before) and entry.name.endswith(after)
            # A link to nothing is a file that is missing, which the check of its case says.
            if not fits or not is_volume_file(path) or not (path.is_file() or path.is_symlink()):
                continue
            matched = entry.name[len(before) : len(entry.name) - len(after)]
            name = matched if parts[at + 1 :] else case_name(matched)
            if len(entry.name) <= len(before) + len(after) or not name:
                continue
            other = found.setdefault(name, path)
            if other is not path:
                raise InputError(
                    f"{path} and {other} are both named {name} by {self.option}={self.text}, "
                    "expected one file per case."
                )
        return found


def paired_cases(root: Path, images: Pattern, labels: Pattern) -> list[Case]:
    """Images and labels whose wildcards match the same name.

    An image without its label, or a label without its image, is a case with the path where that
    ought to be, so that the check of all cases names every one of them. Where a file fits both
    patterns (`*.nii.gz` and `*_seg.nii.gz`), that with more characters has it.

    Raises:
        InputError: a pattern that matches nothing, patterns that match the same files or no two of
            the same name, or a name twice.
    """
    found, truth = images.matches(root), labels.matches(root)
    both = set(found.values()) & set(truth.values())
    if both and len(images.text) == len(labels.text):
        raise InputError(
            f"{min(both)} fits {images.option}={images.text} and {labels.option}={labels.text}, "
            "expected patterns that tell images from labels."
        )
    if len(images.text) < len(labels.text):
        found = {name: path for name, path in found.items() if path not in both}
    else:
        truth = {name: path for name, path in truth.items() if path not in both}
    for pattern, files in ((images, found), (labels, truth)):
        if not files:
            raise _no_match(root, pattern)
    if not found.keys() & truth.keys():
        one, other = (", ".join(list(files)[:3]) for files in (found, truth))
        raise InputError(
            f"{root}: images named {one} and labels named {other} found by {images.option}="
            f"{images.text} and {labels.option}={labels.text}, expected the same names."
        )
    return pair(root, images, labels, found, truth)


def pair(
    root: Path,
    images: Pattern,
    labels: Pattern,
    found: Mapping[str, Path],
    truth: Mapping[str, Path],
) -> list[Case]:
    """The cases of {case: image} and {case: label}; see `paired_cases`."""
    cases = []
    for name in sorted(found.keys() | truth.keys(), key=numeric):
        known = found.get(name) or truth[name]
        suffix = known.name[len(case_name(known)) :]
        image = found.get(name) or images.path(root, name, suffix)
        label = truth.get(name) or labels.path(root, name, suffix)
        cases.append(Case(name, name, image, label))
    return cases


def only_images(root: Path, images: Pattern) -> list[Case]:
    """The images of a pattern, without labels; raises InputError if it matches nothing."""
    found = images.matches(root)
    if not found:
        raise _no_match(root, images)
    return [Case(name, name, path, None) for name, path in found.items()]


def _no_match(root: Path, pattern: Pattern) -> InputError:
    folder = root
    for part in pattern.text.split("/"):
        if "*" in part:
            break
        folder = folder / part
    names = [entry.name for entry in visible(folder)]
    there = ", ".join(names[:3]) + ", ..." * bool(names[3:]) or "no file"
    there = f"{there} in {folder}" if folder.is_dir() else f"no folder {folder}"
    return InputError(
        f"{pattern.option}={pattern.text} matches nothing, {there} found, expected files that end "
        f"in {', '.join(SUFFIXES)}."
    )
