"""Keeps cases that a model has learnt from out of the cases that it is judged on."""

from collections.abc import Collection, Mapping
from pathlib import Path

from lagseg_jax.data.contents import Contents
from lagseg_jax.data.patients import listed
from lagseg_jax.data.split import read_content
from lagseg_jax.runs.init_source import read_source
from lagseg_jax.runtime.errors import InputError

SEEN = "seen_case"


def seen_images(workdir: Path) -> dict[str, str]:
    """{SHA-256 of the image's file: case} of all that a run has learnt from.

    These are its training and validation cases, and those of the runs that it began with.

    Raises:
        InputError: splits.json is missing or says nothing about the files.
    """
    path = Path(workdir) / "splits.json"
    record = read_content(path)
    try:
        names = [name for part in ("train", "validation") for name in record[part]]  # type: ignore
        own = {record["sha256"][name]["image"]: name for name in names}  # type: ignore
    except (KeyError, TypeError):
        raise InputError(
            f"{path}: no sha256 of the training and validation cases found, expected what training "
            "wrote."
        ) from None
    source = read_source(workdir)
    return {**(source["seen"] if source else {}), **own}


def check_unseen(
    seen: Mapping[str, str], contents: Contents, workdir: object, allow: Collection[str], way: str
) -> list[str]:
    """Refuses to judge a model on images that it has learnt from; files are told by their content.

    Args:
        seen: from `seen_images`.
        contents: of the cases that the model is to be judged on.
        workdir: of the run that has seen them, for the sentence.
        allow: "seen_case" in it lets them pass.
        way: what the user can write to allow them.

    Returns:
        The names of the cases that were seen.

    Raises:
        InputError: there are some, and they are not allowed.
    """
    names = [case for case, one in contents.items() if one["image"] and one["image"] in seen]
    if names and SEEN not in allow:
        raise InputError(
            f"the images of {listed(names)} are among the training and validation cases of "
            f"{workdir}, expected cases that it has not learnt from; leave them out, or go on with "
            f"{way}"
        )
    return names
