"""Takes back what a new training has written when it is refused before its first step."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from lagseg_jax.config.choices import PHANTOMS
from lagseg_jax.runs.init_source import INIT_SOURCE
from lagseg_jax.runs.planes import PLANES
from lagseg_jax.runs.training_range import RANGE
from lagseg_jax.runs.voxel_hashes import VOXELS
from lagseg_jax.runs.workdir import CONFIG, has_checkpoints
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.processes import process

RECORDS = (CONFIG, "splits.json", INIT_SOURCE, PLANES, VOXELS, RANGE)
FOLDERS = ("checkpoints", *PHANTOMS)


@contextlib.contextmanager
def undone_if_refused(workdir: Path) -> Iterator[None]:
    """Leaves the workdir as it was if this block refuses a training that has not begun.

    A training has begun with its first line in `metrics.jsonl`, which is opened once everything is
    accepted. The first process of a run undoes for all of them.
    """
    if process()[0] > 0 or _has_begun(workdir):
        yield
        return
    files = {path: path.read_bytes() for name in RECORDS if (path := workdir / name).is_file()}
    new = [workdir / name for name in FOLDERS if not (workdir / name).exists()]
    try:
        yield
    except InputError:
        if not _has_begun(workdir):
            _restore(workdir, files, new)
        raise


def _has_begun(workdir: Path) -> bool:
    return has_checkpoints(workdir) or (workdir / "metrics.jsonl").exists()


def _restore(workdir: Path, files: dict[Path, bytes], new: list[Path]) -> None:
    """Makes the records what they were, and removes folders that are new."""
    for path in (workdir / name for name in RECORDS):
        if path not in files:
            path.unlink(missing_ok=True)
        elif path.read_bytes() != files[path]:
            path.write_bytes(files[path])
    for folder in new:
        shutil.rmtree(folder, ignore_errors=True)
