"""Judges a finished run on another labelled dataset, apart from the run's own evaluation."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from lagseg_jax.data.cases import Case
from lagseg_jax.data.contents import hash_cases
from lagseg_jax.data.datasets import config_datasets, labelled, say_datasets
from lagseg_jax.data.seen_cases import check_unseen, seen_images
from lagseg_jax.data.split import read_split
from lagseg_jax.evaluation.evaluate import FILES, evaluate, mask_file
from lagseg_jax.evaluation.manifest import dataset_root
from lagseg_jax.inference.estimator import Estimator
from lagseg_jax.inference.files import CasePage
from lagseg_jax.inference.segmenter import Segmenter, restore_segmenter
from lagseg_jax.model.frozen_encoder import load_frozen_encoder
from lagseg_jax.runs.lock import NAME, locked
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.devices import use_compilation_cache
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json

log = logging.getLogger(__name__)

FOLDER = "evaluations"  # in the workdir, a folder for each external test set


@dataclasses.dataclass(frozen=True)
class ExternalSet:
    """A labelled dataset that a run is judged on, and where the results go.

    Attributes:
        workdir: of the run, of which nothing changes but `evaluations/`.
        name: of the dataset in reports, and of the folder of its results.
        output: this folder, where it lies elsewhere; "": WORKDIR/evaluations/NAME.
        split: a splits.json, of which only the test cases count; "": all labelled cases.
        data: fields of `config.data` that belong to the dataset, not to the run.
        weights: folder of the encoder weights, if they moved since the training.
    """

    workdir: Path
    name: str
    output: str
    split: str
    data: dict[str, Any]
    weights: str = ""

    @property
    def folder(self) -> Path:
        """Of the results."""
        return Path(self.output) if self.output else self.workdir / FOLDER / self.name


def judge_external(
    test: ExternalSet, case_page: CasePage | None = None
) -> tuple[Segmenter, dict[str, Any]]:
    """Evaluates the cases into `test.folder`, the same files as an evaluation of the run leaves.

    Returns:
        The segmenter, and the content of summary.json.

    Raises:
        InputError: the run, a case or the folder cannot be used; or the run has learnt from a case.
    """
    config = external_config(test)
    _check_folder(test)
    cases = _cases(config, test.split)
    way = "--allow=seen_case"
    seen = seen_images(test.workdir)
    names = check_unseen(seen, hash_cases(cases), test.workdir, config.data.allow, way)
    if names:
        log.warning("the run has learnt from %d of these cases", len(names))
    use_compilation_cache()
    encoder = load_frozen_encoder(config)
    segmenter = restore_segmenter(config, test.workdir, encoder)
    estimator = Estimator.of(test.workdir, segmenter.step, config.data, segmenter.plane)
    segmenter = dataclasses.replace(segmenter, estimator=estimator)
    about = {
        "run": str(test.workdir.absolute()),
        "name": test.name,
        "split": test.split,
        "seen_cases": names,
    }
    with locked(test.folder):
        _remove_masks(test.folder, cases)
        return segmenter, evaluate(segmenter, cases, test.folder, about, case_page)


def external_config(test: ExternalSet) -> ml_collections.ConfigDict:
    """The run's config with the fields that say what the dataset is like and where it lies.

    Raises:
        InputError: the folder is not a run.
    """
    config = read_config(test.workdir)
    config.data.update(test.data)
    if test.weights:
        config.encoder.weights = test.weights
    return config


def _cases(config: ml_collections.ConfigDict, split: str) -> list[Case]:
    datasets = config_datasets(config.data)
    say_datasets(datasets)
    cases = labelled(datasets)
    if not split:
        return cases
    names = set(read_split(split, cases)["test"])
    return [case for case in cases if case.name in names]


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
    return str(test.workdir.absolute()), dataset_root(external_config(test).data)


def _about(manifest: Path) -> tuple[str, str] | None:
    """Run and dataset of the evaluation that is there; None if it is not an external one."""
    try:
        content = read_json(manifest, "the manifest of an evaluation")
        return content["external"]["run"], content["dataset"]["root"]
    except (InputError, KeyError, TypeError):
        return None


def _remove_masks(folder: Path, cases: Sequence[Case]) -> None:
    """Removes masks of cases that an earlier evaluation of this dataset had, and this has not."""
    kept = {mask_file(folder, case) for case in cases}
    for path in (folder / "masks").glob("*.nii.gz"):
        if path not in kept:
            path.unlink()
