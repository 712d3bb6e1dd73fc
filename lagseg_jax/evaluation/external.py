"""Judges finished runs on another labelled dataset, apart from what a run itself evaluates."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from lagseg_jax.data.cases import Case
from lagseg_jax.data.dataset_checks import log_errors, refuse_errors
from lagseg_jax.data.datasets import config_datasets, labelled, say_datasets
from lagseg_jax.data.quality import Inspection, inspect_case
from lagseg_jax.data.seen_cases import check_unseen, image_hashes, seen_images
from lagseg_jax.data.split import read_split
from lagseg_jax.evaluation.evaluate import FILES, evaluate, mask_file
from lagseg_jax.evaluation.manifest import dataset_root
from lagseg_jax.imaging.labels import LabelRule
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.inference.estimator import Estimator
from lagseg_jax.inference.files import CasePage
from lagseg_jax.inference.load_segmenter import load_segmenter
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.runs.lock import NAME, locked
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.console import in_parallel
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json

log = logging.getLogger(__name__)

FOLDER = "evaluations"  # in the workdir, a folder for each external test set


@dataclasses.dataclass(frozen=True)
class ExternalSet:
    """A labelled dataset that a run, or an ensemble, is judged on, and where the results go.

    Attributes:
        workdirs: of the runs, of which nothing changes but `evaluations/` of the first.
        name: of the dataset in reports, and of the folder of its results.
        output: this folder, where it lies elsewhere; "": WORKDIR/evaluations/NAME.
        split: a splits.json, of which only the test cases count; "": all labelled cases.
        data: fields of `config.data` that belong to the dataset, not to the run.
        weights: folders of the encoder weights, one or one for each run, if they were moved.
    """

    workdirs: tuple[Path, ...]
    name: str
    output: str
    split: str
    data: dict[str, Any]
    weights: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Of the results."""
        return Path(self.output) if self.output else self.workdirs[0] / FOLDER / self.name

    @property
    def runs(self) -> str:
        """Their folders in words."""
        return ", ".join(str(workdir.absolute()) for workdir in self.workdirs)


def judge_external(
    test: ExternalSet, case_page: CasePage | None = None
) -> tuple[Segmenter, dict[str, Any]]:
    """Evaluates the cases into `test.folder`, the same files as an evaluation of the run leaves.

    Returns:
        The segmenter, and the content of summary.json.

    Raises:
        InputError: a run, a case or the folder cannot be used, the dataset has errors that a
            training would refuse, too; or a run has learnt from a case.
    """
    config = external_config(test)
    _check_folder(test)
    cases = _cases(config, test.split)
    way = "--allow=seen_case"
    seen = {key: case for run in test.workdirs for key, case in seen_images(run).items()}
    rule = LabelRule(config.data.label_value, config.data.label_threshold, "--label_")
    reading = Reading.of(config.data)
    inspections = _inspected(cases, rule, reading)
    names = check_unseen(seen, image_hashes(inspections), test.runs, reading.allow, way)
    if names:
        log.warning("the run has learnt from %d of these cases", len(names))
    refuse_errors(inspections, reading.allow, rule)
    segmenter = load_segmenter(test.workdirs, test.weights or None)
    config.encoder.weights = segmenter.config.encoder.weights
    model = segmenter.step, config.data, segmenter.plane
    estimator = Estimator.of(test.workdirs, False, *model)
    segmenter = dataclasses.replace(segmenter, config=config, estimator=estimator)
    about = {
        "run": str(test.workdirs[0].absolute()),
        "partners": _partners(test, segmenter),
        "name": test.name,
        "split": test.split,
        "seen_cases": names,
    }
    with locked(test.folder):
        _remove_masks(test.folder, cases)
        return segmenter, evaluate(segmenter, cases, test.folder, about, case_page)


def _partners(test: ExternalSet, segmenter: Segmenter) -> list[dict[str, Any]]:
    """What the manifest says of the further runs of an ensemble."""
    return [
        {
            "run": str(workdir.absolute()),
            "checkpoint_step": member.step,
            "seed": member.config.seed,
            "encoder": member.encoder.report(),
        }
        for workdir, member in zip(test.workdirs[1:], segmenter.partners)
    ]


def external_config(test: ExternalSet) -> ml_collections.ConfigDict:
    """The first run's config with the fields that say what the dataset is like and where it lies.

    Raises:
        InputError: the folder is not a run.
    """
    config = read_config(test.workdirs[0])
    config.data.update(test.data)
    return config


def _cases(config: ml_collections.ConfigDict, split: str) -> list[Case]:
    datasets = config_datasets(config.data)
    say_datasets(datasets)
    cases = labelled(datasets)
    if not split:
        return cases
    names = set(read_split(split, cases)["test"])
    return [case for case in cases if case.name in names]


def _inspected(cases: Sequence[Case], rule: LabelRule, reading: Reading) -> list[Inspection]:
    """What the check of a dataset says of each case; its errors are logged."""

    def inspect(case: Case) -> Inspection:
        inspection = inspect_case(case, rule, reading)[0]
        log_errors(inspection.problems, reading.allow)
        return inspection

    return in_parallel("checking volumes", inspect, cases)


def _check_folder(test: ExternalSet) -> None:
    """Refuses to write over anything but an earlier evaluation of the same dataset."""
    folder = test.folder
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    about, mine = _about(folder / "manifest.json"), _identity(test)
    strange = sorted({path.name for path in folder.iterdir()} - {*FILES, NAME})
    if strange or (about is None and (folder / "manifest.json").exists()):
        found = strange[0] if strange else "the evaluation of a run itself"
        raise InputError(
            f"{folder} holds {found}, expected a new folder or one that this command made"
        )
    if about is not None and about != mine:
        raise InputError(
            f"{folder} holds the evaluation of {about[0]} on {about[1]}, expected that of "
            f"{mine[0]} on {mine[1]}; take another --name or --output"
        )


def _identity(test: ExternalSet) -> tuple[str, str]:
    return test.runs, dataset_root(external_config(test).data)


def _about(manifest: Path) -> tuple[str, str] | None:
    """Run and dataset of the evaluation that is there; None if it is not an external one."""
    try:
        content = read_json(manifest, "the manifest of an evaluation")
        external = content["external"]
        runs = [external["run"], *(one["run"] for one in external["partners"])]
        return ", ".join(runs), content["dataset"]["root"]
    except (InputError, KeyError, TypeError):
        return None


def _remove_masks(folder: Path, cases: Sequence[Case]) -> None:
    """Removes masks of cases that an earlier evaluation of this dataset had, and this has not."""
    kept = {mask_file(folder, case) for case in cases}
    for path in (folder / "masks").glob("*.nii.gz"):
        if path not in kept:
            path.unlink()
