"""Keeps cases that a model has learnt from out of the cases that it is judged on."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from lagseg_jax.data.contents import hash_cases
from lagseg_jax.data.patients import listed
from lagseg_jax.data.quality import Inspection
from lagseg_jax.data.split import read_content
from lagseg_jax.runs.init_source import read_source
from lagseg_jax.runs.voxel_hashes import read_voxel_hashes
from lagseg_jax.runtime.errors import InputError

SEEN = "seen_case"


def seen_images(workdir: Path) -> dict[str, str]:
    """{hash of the image's file, and that of its voxels: case} of all that a run has learnt from.

    These are its training and validation cases, and those of the runs that it began with.

    Raises:
        InputError: splits.json is missing or says nothing about the files.
    """
    images = _images(workdir, ("train", "validation"))
    own = {image: name for name, image in images.items()}
    voxels = read_voxel_hashes(workdir)
    own |= {voxels[name]: name for name in images if name in voxels}
    source = read_source(workdir)
    return {**(source["seen"] if source else {}), **own}


def validation_images(workdir: Path) -> dict[str, str]:
    """{case: hash of the image's file} of those that a run has chosen its checkpoint on.

    Raises:
        InputError: splits.json is missing or says nothing about the files.
    """
    return _images(workdir, ("validation",))


def _images(workdir: Path, parts: Sequence[str]) -> dict[str, str]:
    path = Path(workdir) / "splits.json"
    record = read_content(path)
    try:
        names = [name for part in parts for name in record[part]]  # type: ignore
        return {name: record["sha256"][name]["image"] for name in names}  # type: ignore
    except (KeyError, TypeError):
        raise InputError(
            f"{path}: no sha256 of the training and validation cases found, expected what training "
            "wrote."
        ) from None


def image_hashes(inspections: Sequence[Inspection]) -> dict[str, tuple[str, ...]]:
    """{case: what its image is recognised by}: the hash of its file, and that of its voxels.

    Args:
        inspections: of the cases to be judged on; a file that cannot be read has no hashes.
    """
    files = hash_cases([one.case for one in inspections])
    return {
        one.case.name: (files[one.case.name]["image"], one.facts.get("voxels_sha256", ""))
        for one in inspections
    }


def check_unseen(
    seen: Mapping[str, str],
    hashes: Mapping[str, Collection[str]],
    workdir: object,
    allow: Collection[str],
    way: str,
) -> list[str]:
    """Refuses to judge a model on images that it has learnt from, under whatever name and format.

    Args:
        seen: from `seen_images`.
        hashes: from `image_hashes`, of the cases that the model is to be judged on.
        workdir: of the run that has seen them, for the sentence.
        allow: "seen_case" in it lets them pass.
        way: what the user can write to allow them.

    Returns:
        The names of the cases that were seen.

    Raises:
        InputError: there are some, and they are not allowed.
    """
    names = [case for case, found in hashes.items() if any(one and one in seen for one in found)]
    if names and SEEN not in allow:
        raise InputError(
            f"the images of {listed(names)} are among the training and validation cases of "
            f"{workdir}, expected cases that it has not learnt from; leave them out, or go on with "
            f"{way}"
        )
    return names
