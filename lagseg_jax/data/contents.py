"""Knows the files of a dataset by what is in them, so that a run notices when they are others."""

from collections.abc import Collection, Mapping, Sequence

from lagseg_jax.data.cases import Case
from lagseg_jax.data.patients import listed
from lagseg_jax.runtime.console import in_parallel
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import file_sha256
from lagseg_jax.runtime.processes import allgather, share

Contents = dict[str, dict[str, str]]


def hash_cases(cases: Sequence[Case]) -> Contents:
    """{case: {"image": SHA-256, "label": SHA-256}}, "" for a file that cannot be read.

    Threads read the files (hashing leaves Python's lock), and the processes of a run share them.
    """
    mine = share(cases)
    hashes = in_parallel("reading files", _hash_case, mine)
    parts = allgather({case.name: one for case, one in zip(mine, hashes)})
    together = {name: one for part in parts for name, one in part.items()}
    return {case.name: together[case.name] for case in cases}


def _hash_case(case: Case) -> dict[str, str]:
    found = {}
    for part, path in (("image", case.image), ("label", case.label)):
        try:
            found[part] = file_sha256(path) if path is not None else ""
        except OSError:  # the check of the case says what is wrong with it
            found[part] = ""
    return found


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
            "corrected labels with config.data.allow=('changed_label',)"
        )
    return f"{found}, which config.data.allow accepts" if labels else None
