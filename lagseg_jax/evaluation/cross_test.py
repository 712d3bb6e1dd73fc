"""Judges each run of a study on the test cases of the runs that were trained on other datasets."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from lagseg_jax.config.choices import PHANTOMS
from lagseg_jax.config.validate import as_tuple
from lagseg_jax.evaluation.external import FOLDER
from lagseg_jax.evaluation.study import Run
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json


@dataclasses.dataclass(frozen=True)
class CrossTest:
    """One run judged on the test cases of another, of the same fold and seed.

    Attributes:
        run: trained on one dataset.
        other: trained on the dataset that is tested on; its splits.json says on which cases.
    """

    run: Run
    other: Run
    module: ClassVar[str] = "lagseg_jax.evaluate"

    @property
    def name(self) -> str:
        """For messages: "ARM seed0 on OTHER"."""
        return f"{self.run.name} on {self.other.arm}"

    @property
    def workdir(self) -> Path:
        """The folder of the results."""
        return self.run.workdir / FOLDER / self.other.arm

    @property
    def ready(self) -> bool:
        """Whether both runs are there."""
        return self.run.finished and self.other.finished

    @property
    def finished(self) -> bool:
        """Whether the results are there, and those of the checkpoint that the run is judged by."""
        steps = [_step(folder) for folder in (self.workdir, self.run.workdir / "evaluation")]
        return steps[0] is not None and steps[0] == steps[1]

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of `lagseg_jax.evaluate`."""
        data = self.other.config.data
        root = self.other.workdir / data.root if data.root in PHANTOMS else data.root
        arguments = [f"--workdir={self.run.workdir}", f"--data={root}", f"--name={self.other.arm}"]
        arguments.append(f"--split={self.other.workdir / 'splits.json'}")
        for field in ("images", "labels", "label_threshold", "orientation", "max_gb"):
            arguments.append(f"--{field}={data[field]}")
        for field in ("cases", "exclude"):
            arguments += [f"--{field}={name}" for name in as_tuple(data[field])]
        values = ",".join(map(str, as_tuple(data.label_value)))
        return (*arguments, f"--label_value={values or 0}", f"--allow={','.join(data.allow)}")


def cross_tests(runs: Sequence[Run]) -> list[CrossTest]:
    """Every run on every other dataset, folds and seeds in pairs."""
    return [
        CrossTest(run, other)
        for run in runs
        for other in runs
        if other.arm != run.arm and (other.fold, other.seed) == (run.fold, run.seed)
    ]


def _step(folder: Path) -> int | None:
    try:
        return read_json(folder / "summary.json", "what an evaluation writes")["step"]
    except (InputError, KeyError):
        return None
