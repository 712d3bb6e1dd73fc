"""Keeps cases that a model has learnt from out of the cases that it is judged on."""

import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from lagseg_jax.data.cases import Case
from lagseg_jax.data.contents import hash_cases
from lagseg_jax.data.patients import listed
from lagseg_jax.data.quality import voxels_sha256
from lagseg_jax.data.split import read_content
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.volume import parse_volume
from lagseg_jax.runs.init_source import read_source
from lagseg_jax.runs.voxel_hashes import read_voxel_hashes
from lagseg_jax.runtime.console import in_parallel
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


def image_hashes(
    cases: Sequence[Case],
    max_bytes: int,
    orientation: str,
    allow: Sequence[str],
    keep_bytes: int = 0,
) -> tuple[dict[str, tuple[str, str]], dict[str, Volume]]:
    """What images are recognised by: the hash of the file, and that of its voxels.

    A file that cannot be read has none; whoever uses the case says what is wrong with it.

    Args:
        cases: to be judged on.
        max_bytes: of voxels in one file.
        orientation: of files that do not say it, as in `parse_volume`.
        allow: what a DICOM series may have, as there.
        keep_bytes: of all voxels that are kept, so that files need not be decoded again.

    Returns:
        {case: its hashes}, and {case: its image} of as many as fit.
    """
    kept: dict[str, Volume] = {}
    lock, free = threading.Lock(), [keep_bytes]

    def of_voxels(case: Case) -> str:
        try:
            volume = parse_volume(case.image, max_bytes, orientation, allow)
        except InputError:
            return ""
        with lock:
            if volume.array.nbytes <= free[0]:
                free[0] -= volume.array.nbytes
                kept[case.name] = volume
        return voxels_sha256(volume)

    voxels = in_parallel("looking for cases that were learnt from", of_voxels, cases)
    files = hash_cases(cases)
    found = {case.name: (files[case.name]["image"], one) for case, one in zip(cases, voxels)}
    return found, kept


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
