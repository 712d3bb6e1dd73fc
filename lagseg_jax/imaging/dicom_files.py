"""Finds the DICOM files of a folder or a zip archive, and opens them without unpacking anything."""

import contextlib
import functools
import importlib.util
import io
import logging
import os
import threading
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.extras import install_command
from lagseg_jax.runtime.files import open_file

log = logging.getLogger(__name__)

# What an archive may make us read: images pack by ten at most, zeros by a thousand.
MAX_UNPACKED = 5 * 10**10
MAX_MEMBERS = 200_000
_MAX_RATIO = 100
_MAX_MEMBER = 2 * 10**9
_QUIET = threading.RLock()
_SMALL = 2**21  # a black image packs well, too


@dataclass(frozen=True)
class Member:
    """A file in a zip archive; it is read in memory, never written to a disk."""

    archive: Path
    inside: str

    @property
    def name(self) -> str:
        """Without its folders."""
        return PurePosixPath(self.inside).name

    @property
    def parent(self) -> Path:
        """Archive and folder in it, for messages."""
        return self.archive / PurePosixPath(self.inside).parent

    def open(self) -> BinaryIO:
        """Its content as a stream; raises InputError for what is packed to be a bomb."""
        opened = _opened(self.archive)
        info = opened.getinfo(self.inside)
        declared, packed = info.file_size, info.compress_size
        if declared > _MAX_MEMBER or declared > _SMALL + _MAX_RATIO * packed:
            raise InputError(
                f"{self}: {declared} bytes packed into {packed}, expected an image, which packs "
                f"less than {_MAX_RATIO} times"
            )
        return io.BytesIO(opened.read(info))

    def __str__(self) -> str:
        return f"{self.archive}: {self.inside}"


DicomFile = Path | Member


def open_dicom(file: DicomFile) -> BinaryIO:
    """The content of a file, wherever it lies."""
    return file.open() if isinstance(file, Member) else _Bounded(file)


class _Bounded(io.BufferedReader):
    """A file that allocates what it has, not what a damaged header asks it to read."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        rest = max(0, self._size - self.tell())
        return super().read(rest if size is None or size < 0 else min(size, rest))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings, which quote values; one thread at a time, for they are global."""
    logger = logging.getLogger("pydicom")
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


def check_dicom_support() -> None:
    """Raises InputError if pydicom, an optional dependency, is not installed."""
    if importlib.util.find_spec("pydicom") is None:
        raise InputError(
            "DICOM files need pydicom, which is not installed, expected it after "
            f"{install_command('dicom')}"
        )


def is_dicom_file(path: Path) -> bool:
    """Whether the file has the mark of DICOM files, `DICM` at byte 128, or begins without it."""
    try:
        with open_file(path) as stream:
            return _begins_dicom(stream.read(132))
    except OSError:
        return False


def holds_dicom(path: Path) -> bool:
    """Whether it is a DICOM file, or a folder with some in it or below."""
    return next(dicom_files(path), None) is not None if path.is_dir() else is_dicom_file(path)


def is_zip(path: Path) -> bool:
    """Whether it is named as a zip archive and is a file."""
    return path.suffix.lower() == ".zip" and not path.name.startswith(".") and path.is_file()


def _begins_dicom(start: bytes) -> bool:
    if start[128:132] == b"DICM":
        return True
    # Without the preamble of 128 bytes: the first element of group 2 or 8, little endian.
    group, element = (int.from_bytes(start[at : at + 2], "little") for at in (0, 2))
    if len(start) < 132 or group not in (2, 8) or element > 0x20:
        return False
    explicit = start[4:6].isalpha() and start[4:6].isupper()
    return explicit or int.from_bytes(start[4:8], "little") <= 64


def dicom_files(path: Path) -> Iterator[DicomFile]:
    """The DICOM files of a folder, of folders and archives below it, of an archive, or the file.

    Raises:
        InputError: an archive that is damaged, encrypted, or would unpack to more than
            MAX_UNPACKED bytes.
    """
    if is_zip(path):
        yield from _members(path)
    elif path.is_file():
        yield path
    else:
        for folder in series_folders(path):
            names = _listed(os.listdir(folder))
            yield from (folder / name for name in names if is_dicom_file(folder / name))
        for archive in sorted(path.rglob("*.[zZ][iI][pP]")):
            yield from _members(archive) if is_zip(archive) else ()


def series_folders(root: Path) -> list[Path]:
    """`root` and the folders below it, as far as DICOM files lie right in them, in name order.

    Links are followed, but none to a folder that was there before: they may run in circles.
    """
    found, seen = [], set()
    for folder, below, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        below[:] = sorted(
            name
            for name in below
            if not name.startswith(".") and not _came_before(Path(folder, name), seen)
        )
        if any(is_dicom_file(Path(folder, name)) for name in _listed(names)):
            found.append(Path(folder))
    return sorted(found)


def _came_before(folder: Path, seen: set[str]) -> bool:
    if not folder.is_symlink() or os.path.realpath(folder) not in seen:
        return False
    log.info("%s: links to a folder that is searched already, skipped", folder)
    return True


def _listed(names: list[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith(".") and name != "DICOMDIR")


def _members(archive: Path) -> list[Member]:
    infos = [info for info in _opened(archive).infolist() if not info.is_dir()]
    declared = sum(info.file_size for info in infos)
    if len(infos) > MAX_MEMBERS or declared > MAX_UNPACKED:
        raise InputError(
            f"{archive}: {len(infos)} files of {declared} bytes declared, expected at most "
            f"{MAX_MEMBERS} files and {MAX_UNPACKED} bytes"
        )
    found = {}
    for info in infos:
        parts = PurePosixPath(info.filename).parts
        if ".." in parts or info.filename.startswith("/"):
            raise InputError(
                f"{archive}: holds {info.filename}, expected names of files inside the archive"
            )
        hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
        if hidden or info.filename.endswith("DICOMDIR"):
            continue
        if info.flag_bits & 1:
            raise InputError(f"{archive}: {info.filename} is encrypted, expected a plain archive")
        try:
            with _opened(archive).open(info) as stream:
                start = stream.read(132)
        except Exception as error:  # its parts are as damaged as they like
            raise _damaged_archive(archive, error) from error
        if _begins_dicom(start):
            found[info.filename] = Member(archive, info.filename)
    return [found[name] for name in sorted(found)]


@functools.lru_cache(maxsize=4)
def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except Exception as error:
        raise _damaged_archive(archive, error) from error


def _damaged_archive(archive: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return InputError(f"{archive}: damaged or not readable ({reason}), expected a zip archive")
