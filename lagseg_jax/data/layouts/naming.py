"""Finds the cases of a dataset by two patterns, one for the images and one for the labels."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lagseg_jax.data.cases import Case, numeric, visible, with_folders_below
from lagseg_jax.imaging.volume import SUFFIXES, case_name, is_volume_file
from lagseg_jax.runtime.errors import InputError


@dataclass(frozen=True)
class Pattern:
    """The names of some files below a folder, such as `images/*_lge.nii.gz`.

    Attributes:
        text: its wildcard stands for the name of a case; everything else is meant literally.
            Without a slash it names files in the folders below, too.
        option: that gave it, for messages.
    """

    text: str
    option: str

    def __post_init__(self) -> None:
        if self.text.count("*") != 1:
            found, file = self.text.count("*") or "no", self.text.split("/")[-1]
            like = f"{file!r}, which" if file.count("*") == 1 else "'*_image.nii.gz', which"
            raise InputError(
                f"{self.option} is {self.text!r} with {found} wildcards, expected exactly one, the "
                f"name of the case, such as 'images/*' or {like} finds files in all folders below, "
                f"too, or a table ({self.option}=cases.csv)"
            )
        if self.text.startswith("/") or ".." in self.text.split("/"):
            raise InputError(
                f"{self.option} is {self.text!r}, which leaves the dataset's folder, expected a "
                "pattern below it"
            )

    def path(self, root: Path, key: str, suffix: str) -> Path:
        """Where the file of a key ought to be; a `*` at the end stands for its type, too."""
        folder, _, name = key.rpartition("/")
        return root / folder / (self.text.replace("*", name) + suffix * self.text.endswith("*"))

    def matches(self, root: Path, below: bool = True) -> dict[str, Path]:
        """{key: volume file} in numeric order.

        A key is what the wildcard stands for, after the folders below `root`: `2018/P1`.

        Args:
            root: the folder.
            below: whether a pattern without a slash names files in the folders below, too.

        Raises:
            InputError: a key twice.
        """
        if "/" in self.text or not below:
            return self._in(root)
        found: dict[str, Path] = {}
        for folder in with_folders_below(root):
            where = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
            found |= {where + name: path for name, path in self._in(folder).items()}
        return found

    def _in(self, root: Path) -> dict[str, Path]:
        """{case: volume file} in one folder; raises InputError for a case twice."""
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
    """Images and labels whose wildcards match the same name in the same folder.

    An image without its label, or a label without its image, is a case with the path where that
    ought to be, so that the check of all cases names every one of them. Where a file fits both
    patterns (`*.nii.gz` and `*_seg.nii.gz`), that with more characters has it.

    Raises:
        InputError: a pattern that matches nothing, patterns that match the same files or no two of
            the same name, or a name twice.
    """
    below = "/" not in images.text + labels.text
    found, truth = images.matches(root, below), labels.matches(root, below)
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
            f"{images.text} and {labels.option}={labels.text}, expected the same names"
            + " in the same folders."
            * below
        )
    return pair(root, images, labels, found, truth)


def pair(
    root: Path,
    images: Pattern,
    labels: Pattern,
    found: Mapping[str, Path],
    truth: Mapping[str, Path],
) -> list[Case]:
    """The cases of {key: image} and {key: label}; see `paired_cases`."""
    cases = []
    for key, name in called(found.keys() | truth.keys()).items():
        known = found.get(key) or truth[key]
        suffix = known.name[len(case_name(known)) :]
        image = found.get(key) or images.path(root, key, suffix)
        label = truth.get(key) or labels.path(root, key, suffix)
        cases.append(Case(name, name, image, label))
    return cases


def called(keys: Collection[str]) -> dict[str, str]:
    """{key: name of the case} in numeric order, with the folders where names are not unique."""
    short = {key: key.rpartition("/")[2] for key in sorted(keys, key=numeric)}
    if len(set(short.values())) == len(short):
        return short
    return {key: key.replace("/", "_") for key in short}


def only_images(root: Path, images: Pattern) -> list[Case]:
    """The images of a pattern, without labels; raises InputError if it matches nothing."""
    found = images.matches(root)
    if not found:
        raise _no_match(root, images)
    return [Case(name, name, found[key], None) for key, name in called(found).items()]


def _no_match(root: Path, pattern: Pattern) -> InputError:
    folder = root
    for part in pattern.text.split("/"):
        if "*" in part:
            break
        folder = folder / part
    names = [entry.name for entry in visible(folder)]
    if "/" not in pattern.text and not any(map(is_volume_file, names)):
        places = with_folders_below(folder)
        names = [str(p.relative_to(folder)) for f in places for p in visible(f) if not p.is_dir()]
    there = ", ".join(names[:3]) + ", ..." * bool(names[3:]) or "no file"
    there = f"{there} in {folder}" if folder.is_dir() else f"no folder {folder}"
    return InputError(
        f"{pattern.option}={pattern.text} matches nothing, {there} found, expected files that end "
        f"in {', '.join(SUFFIXES)}."
    )
