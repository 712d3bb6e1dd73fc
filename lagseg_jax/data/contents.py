"""Knows the files of a dataset by what is in them, so that a run notices when they are others."""

import contextlib
import os
import re
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from lagseg_jax.data.cases import Case
from lagseg_jax.data.disk_cache import key_of
from lagseg_jax.data.patients import listed
from lagseg_jax.runtime.console import in_parallel
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import content_sha256, files_below, read_json, write_json
from lagseg_jax.runtime.processes import allgather, once, share

Contents = dict[str, dict[str, str]]
SETTLED_SECONDS = 2.0  # the coarsest clock of a file system


def hash_cases(cases: Sequence[Case], folder: Path | None = None) -> Contents:
    """{case: {"image": SHA-256, "label": SHA-256}}, "" for a file that cannot be read.

    Threads read the files (hashing leaves Python's lock), and the processes of a run share them.

    Args:
        cases: of a dataset.
        folder: of the cache, where hashes are kept, so that a file is read again only when what
            the system notes of every change (inode, size, both times) is different.
    """
    images = sorted(os.fspath(case.image.absolute()) for case in cases)
    kept = folder and folder / f"hashes-{key_of(images)}.json"
    known = _read_known(kept)
    mine = share(cases)
    files = {case.image: _files(case) for case in mine}
    files |= {case.label: [case.label] for case in mine if case.label}
    states = {path: _state(path, files[path]) for path in files}
    hashes = {path: known[state] for path, state in states.items() if state in known}
    unread = sorted(files.keys() - hashes.keys())
    read = in_parallel("reading files", lambda path: _hash(path, files[path]), unread)
    hashes |= zip(unread, read)
    parts = allgather(
        (
            {
                case.name: {
                    "image": hashes[case.image],
                    "label": hashes[case.label] if case.label else "",
                }
                for case in mine
            },
            {states[p]: sha for p, sha in hashes.items() if _is_settled(p, files[p], states[p])},
            bool(unread),
        )
    )
    together = {name: one for part, _, _ in parts for name, one in part.items()}
    if kept is not None and any(read for _, _, read in parts):
        settled = {state: sha256 for _, part, _ in parts for state, sha256 in part.items()}
        once(_keep, kept, settled)
        if not kept.exists():  # each process has a disk of its own
            _keep(kept, settled)
    return {case.name: together[case.name] for case in cases}


def _keep(kept: Path, hashes: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # a full disk, say: they are read again next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, hashes)


def _read_known(kept: Path | None) -> dict[str, str]:
    """{state of a file: SHA-256} of an earlier start."""
    try:
        found = read_json(kept, "hashes") if kept is not None else {}
    except InputError:  # none yet, or damaged
        return {}
    return {state: sha for state, sha in found.items() if re.fullmatch("[0-9a-f]{64}", str(sha))}


def _files(case: Case) -> list[Path]:
    """The files of an image; of a folder those in it and below, but for a label that lies there."""
    return [file for file in files_below(case.image) if file != case.label]


def _state(path: Path, files: Sequence[Path]) -> str:
    """What changes whenever one of the files at a path does; "" for what is not there."""
    try:
        found = [file.stat() for file in files]
    except OSError:
        return ""
    numbers = [[s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for s in found]
    return f"{os.fspath(path.resolve())!a} {key_of(numbers)}"


def _is_settled(path: Path, files: Sequence[Path], state: str) -> bool:
    """Whether a later change must show: not while clocks may still say the same time."""
    try:
        age = time.time() - max(file.stat().st_ctime for file in files)
    except (OSError, ValueError):  # gone, or an empty folder
        return False
    return age > SETTLED_SECONDS and state == _state(path, files)


def _hash(path: Path, files: Sequence[Path]) -> str:
    try:
        return content_sha256(path, files)
    except OSError:  # the check of the case says what is wrong with it
        return ""


def changed_cases(before: Mapping, now: Contents, names: Sequence[str], part: str) -> list[str]:
    """The cases whose image or label file is another than before."""
    return [name for name in names if before.get(name, {}).get(part) != now[name][part]]


def check_contents(
    path: object, before: Mapping, now: Contents, names: Sequence[str], allow: Collection[str]
) -> str | None:
    """Refuses other files under the names of the cases that a run is made of.

    Args:
        path: of splits.json, which says what was there `before`.
        before: hashes as they were.
        now: hashes as they are.
        names: of the cases that are used.
        allow: "changed_label" in it accepts other labels.

    Returns:
        What is to be said about labels that are accepted, if there are any.

    Raises:
        InputError: another image, or another label that is not allowed.
    """
    images = changed_cases(before, now, names, "image")
    if images:
        raise InputError(
            f"{path}: the image of {listed(images)} has changed since this run began, expected the "
            "files that it was trained on; another dataset needs another --workdir"
        )
    labels = changed_cases(before, now, names, "label")
    found = f"{path}: the label of {listed(labels)} has changed since this run began"
    if labels and "changed_label" not in allow:
        raise InputError(
            f"{found}, expected the files that it was trained on; take another --workdir, or allow "
            "corrected labels with config.data.allow=('changed_label',) (calibrate: --allow)"
        )
    return f"{found}, which config.data.allow accepts" if labels else None
