"""case files -> network images (Z, S, S) and masks (Z, S, S) on disk, decoded only once.

An entry is a folder `<key>/` with `images.npy` (float16) and `masks.npy` (uint8), read through
memory maps. The key covers everything that decides the content: both files (path, size, time of
change) and the preparation settings. Entries are written under a temporary name and renamed, so a
killed process leaves nothing that looks finished; the least recently used entries go when the
cache grows beyond its bound.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lagseg_jax.dataset import Case
from lagseg_jax.devices import cache_home
from lagseg_jax.errors import InputError
from lagseg_jax.logs import Progress
from lagseg_jax.slices import network_images, network_masks, to_slices
from lagseg_jax.volume import read_image_and_label

FORMAT = 1  # raise when the content of an entry changes for the same key
TEMPORARY = "lagseg_jax-writing-"
STALE_SECONDS = 24 * 3600  # a temporary folder this old belongs to a process that was killed


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The settings that decide what a case looks like to the network."""

    image_size: int
    clip_percentiles: tuple[float, float]
    label_value: int


@dataclasses.dataclass(frozen=True)
class PreparedCase:
    """A case as the network sees it: images (Z, S, S) float16 in 0..1 and masks (Z, S, S) uint8."""

    name: str
    images: np.ndarray
    masks: np.ndarray


def cache_folder(configured: str) -> Path:
    """`config.data.cache_dir`, or the user's cache folder when it is empty."""
    return Path(configured).expanduser() if configured else cache_home() / "slices"


def prepare_cases(
    cases: Sequence[Case], preparation: Preparation, folder: Path, max_gb: float
) -> list[PreparedCase]:
    """Decodes the cases that are not in the cache yet, in parallel, and opens all of them.

    Raises:
        InputError: a file cannot be used (named at once), or the cases do not fit into `max_gb`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = [_key(case, preparation) for case in cases]
    missing = [
        (folder / key, case) for key, case in zip(keys, cases) if not (folder / key).is_dir()
    ]
    _in_parallel("decoding volumes", lambda e: _write_entry(*e, preparation), missing)
    _evict(folder, set(keys), max_gb)
    return [_open_entry(folder / key, case.name) for key, case in zip(keys, cases)]


def check_cases(cases: Sequence[Case], label_value: int | None) -> None:
    """Reads every case once, so that a bad test case is met before the training, not after it.

    Raises:
        InputError: a file cannot be used.
    """
    _in_parallel(
        "checking test cases", lambda case: read_image_and_label(*_files(case), label_value), cases
    )


def _in_parallel(what: str, function: Callable, items: Sequence) -> None:
    """Calls the function on every item in threads; the first error ends it and is raised."""
    if not items:
        return
    progress = Progress(what, len(items))
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                progress.advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            progress.close()


def _key(case: Case, preparation: Preparation) -> str:
    files = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in _files(case)]
    content = json.dumps([FORMAT, files, dataclasses.astuple(preparation)])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _files(case: Case) -> tuple[Path, Path]:
    if case.label is None:
        raise InputError(f"{case.image} has no label, and training and evaluation need one")
    for path in (case.image, case.label):
        if not path.is_file():
            raise InputError(f"{path} does not exist, expected a volume file")
    return case.image, case.label


def _write_entry(entry: Path, case: Case, preparation: Preparation) -> None:
    image, label = read_image_and_label(*_files(case), preparation.label_value or None)
    size = preparation.image_size
    slices, _ = to_slices(image.array, image.affine)
    labels, _ = to_slices(label.array, label.affine)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=entry.parent))
    images = network_images(slices, size, preparation.clip_percentiles)
    np.save(temporary / "images.npy", images.astype(np.float16))
    np.save(temporary / "masks.npy", network_masks(labels, size))
    try:
        temporary.rename(entry)
    except OSError:  # another process was faster with the same content
        shutil.rmtree(temporary)


def _open_entry(entry: Path, name: str) -> PreparedCase:
    os.utime(entry)  # the time of last use, for eviction
    images, masks = (np.load(entry / f"{part}.npy", mmap_mode="r") for part in ("images", "masks"))
    return PreparedCase(name, images, masks)


def _evict(folder: Path, in_use: set[str], max_gb: float) -> None:
    """Removes the entries used longest ago until the cache is within its bound."""
    now = time.time()
    sizes, entries = {}, []
    for entry in folder.iterdir():
        try:
            used = entry.stat().st_mtime
            if entry.name.startswith(TEMPORARY):
                if now - used > STALE_SECONDS:
                    shutil.rmtree(entry, ignore_errors=True)
                continue
            if not re.fullmatch("[0-9a-f]{32}", entry.name):
                continue  # not ours
            sizes[entry.name] = sum(f.stat().st_size for f in entry.iterdir())
            entries.append((used, entry))
        except FileNotFoundError:  # another process evicts at the same time
            continue
    needed = sum(sizes.get(key, 0) for key in in_use)
    if needed > max_gb * 1e9:
        raise InputError(
            f"{folder} must hold {needed / 1e9:.2f} GB of decoded slices, but config.data.cache_gb "
            f"is {max_gb:g}"
        )
    total = sum(sizes.values())
    for _, entry in sorted(entries):
        if total > max_gb * 1e9 and entry.name not in in_use:
            _remove(entry)
            total -= sizes[entry.name]


def _remove(entry: Path) -> None:
    # Renamed first: a kill halfway must not leave an entry that looks finished.
    doomed = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=entry.parent))
    with contextlib.suppress(FileNotFoundError):  # another process evicts at the same time
        entry.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
