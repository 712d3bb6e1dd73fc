"""Decodes cases into the slices that the network sees, once, and keeps them on disk.

An entry is a folder `<key>/` with `images.npy` (float16) and `masks.npy` (uint8), read through
memory maps, and `inspection.json`, what the check of the case found; cases that are only checked
have nothing but the latter. The key covers everything that decides the content: both files (path,
size, inode, times of change) and the preparation settings. `disk_cache` says how they come and go.
"""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lagseg_jax.data.cases import Case
from lagseg_jax.data.dataset_checks import log_errors, refuse_errors
from lagseg_jax.data.disk_cache import evict, key_of, mark_used, open_array, writing
from lagseg_jax.data.quality import Inspection, Problem, inspect_case
from lagseg_jax.imaging.dicom_geometry import ALLOWED as DICOM_ALLOWED
from lagseg_jax.imaging.labels import LabelRule
from lagseg_jax.imaging.reading import AS_STORED, Reading
from lagseg_jax.imaging.slices import network_images, network_masks, to_slices
from lagseg_jax.runtime.console import in_parallel, still
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import cache_home, files_below, read_json, user_path
from lagseg_jax.runtime.processes import barrier, share

log = logging.getLogger(__name__)

FORMAT = 6  # raise when the content of an entry changes for the same key


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The settings that decide what a case looks like to the network, and which are refused."""

    image_size: int
    clip_percentiles: tuple[float, float]
    label_value: int | tuple[int, ...] = 0
    label_threshold: float = 0.0
    window: tuple[float, ...] = ()
    reading: Reading = AS_STORED

    @property
    def label_rule(self) -> LabelRule:
        """Which voxels of a label are atrium."""
        return LabelRule(self.label_value, self.label_threshold)


@dataclasses.dataclass(frozen=True)
class PreparedCase:
    """A case as the network sees it.

    Attributes:
        name: of the case.
        images: (Z, E, E) float16 in 0..1.
        masks: (Z, E, E) uint8.
        plane: of the slices, one of `slices.PLANES`.
        dataset: its name, where there are several.
        key: of its entry in the cache, which stands for everything that decides the images.
        atrium_ml: volume of the atrium in its label, in the case's own grid.
        field_mm: of its slices, see `slices.field_mm`.
    """

    name: str
    images: np.ndarray
    masks: np.ndarray
    key: str = ""
    plane: str = ""
    dataset: str = ""
    atrium_ml: float = 0.0
    field_mm: float = 0.0


def cache_folder(configured: str) -> Path:
    """`config.data.cache_dir`, or the user's cache folder when it is empty."""
    return user_path(configured) if configured else cache_home() / "slices"


def prepare_cases(
    cases: Sequence[Case],
    preparation: Preparation,
    folder: Path,
    max_gb: float,
    only_checked: Sequence[Case] = (),
) -> list[PreparedCase]:
    """Checks cases and decodes them, in parallel, unless the cache has them; opens all of them.

    Args:
        cases: to be decoded.
        preparation: how.
        folder: of the cache.
        max_gb: bound of the cache.
        only_checked: further cases (of the test, say), so that a bad one is met now, not later.

    Raises:
        InputError: a dataset with errors (see `quality`; all of them are logged), or cases that do
            not fit into `max_gb`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uses = [(case, "decoded") for case in cases] + [(case, "checked") for case in only_checked]
    entries = [folder / _key(case, preparation, use) for case, use in uses]
    jobs = [(entry, *use) for entry, use in zip(entries, uses)]
    found: dict[Path, Inspection] = {}
    # Then what the other processes could not leave here: bad cases, or all where each has a disk.
    for part in (share(jobs), jobs):
        missing = [job for job in part if job[0] not in found and not job[0].is_dir()]
        inspections = in_parallel(
            "checking volumes", lambda job: _write_entry(*job, preparation), missing
        )
        found |= {job[0]: inspection for job, inspection in zip(missing, inspections)}
        barrier()
    inspections = [found.get(entry) or _read_inspection(entry, case) for entry, case, _ in jobs]
    refuse_errors(inspections, preparation.reading.allow, preparation.label_rule)
    in_use = {entry.name for entry in entries}
    evict(folder, in_use, max_gb, "decoded slices", "config.data.cache_gb")
    return [
        dataclasses.replace(
            _open_entry(entry, case.name),
            plane=inspection.facts["plane"],
            dataset=case.dataset,
            atrium_ml=inspection.facts["atrium_ml"],
            field_mm=inspection.facts["field_mm"],
        )
        for entry, case, inspection in zip(entries, cases, inspections)
    ]


def voxel_hashes(
    cases: Sequence[Case], checked: Sequence[Case], preparation: Preparation, folder: Path
) -> dict[str, str]:
    """{case: hash of its image's voxels} of those that `prepare_cases` decoded or checked."""
    uses = [(case, "decoded") for case in cases] + [(case, "checked") for case in checked]
    return {
        case.name: _read_inspection(folder / _key(case, preparation, use), case).facts[
            "voxels_sha256"
        ]
        for case, use in uses
    }


def _key(case: Case, preparation: Preparation, use: str) -> str:
    files = []
    for path in [f for one in (case.image, case.label) if one for f in files_below(one)]:
        try:
            state = path.stat()
        except OSError:  # no such file: never cached, and refused
            continue
        # Size and date may stay when content does not; the kernel notes the change of an inode.
        seen = state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev
        files.append((str(path.resolve()), *seen))
    settings: tuple = (preparation.label_value, preparation.label_threshold)
    reading = preparation.reading
    settings += (reading.orientation, reading.plane)
    if case.image.is_dir():  # what cannot be read otherwise
        settings += tuple(name for name in DICOM_ALLOWED if name in reading.allow)
    if use == "decoded":
        settings += (preparation.image_size, preparation.clip_percentiles, preparation.window)
    return key_of([FORMAT, use, files, settings])


def _write_entry(entry: Path, case: Case, use: str, preparation: Preparation) -> Inspection:
    """Inspects a case, and keeps the outcome if its files can be used."""
    reading = preparation.reading
    with still(f"reading {case.image} and its label"):
        inspection, image, mask = inspect_case(case, preparation.label_rule, reading)
    log_errors(inspection.problems, reading.allow)  # at once: others may take minutes
    if image is None or mask is None or not inspection.usable:
        return inspection
    with writing(entry) as temporary:
        if use == "decoded":
            slices, _ = to_slices(image.array, image.affine, reading.plane)
            labels, _ = to_slices(mask.array, image.affine, reading.plane)
            size = preparation.image_size
            grey = preparation.clip_percentiles, preparation.window
            try:
                images = network_images(slices, size, *grey)
            except InputError as error:
                raise InputError(f"{case.image}: {error}") from None
            np.save(temporary / "images.npy", images.astype(np.float16, order="C"))
            np.save(temporary / "masks.npy", network_masks(labels, size))
        problems = [dataclasses.asdict(problem) for problem in inspection.problems]
        content = {"facts": inspection.facts, "problems": problems}
        (temporary / "inspection.json").write_text(json.dumps(content))
    return inspection


def _read_inspection(entry: Path, case: Case) -> Inspection:
    mark_used(entry)
    about = "what the check of a case found; delete the folder of the cache"
    content = read_json(entry / "inspection.json", about)
    problems = [Problem(**problem) for problem in content["problems"]]
    return Inspection(case, content["facts"], problems)


def _open_entry(entry: Path, name: str) -> PreparedCase:
    images, masks = (open_array(entry / f"{part}.npy") for part in ("images", "masks"))
    return PreparedCase(name, images, masks, entry.name)
