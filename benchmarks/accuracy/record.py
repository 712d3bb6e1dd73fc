"""Keeps the runs that are done in runs.json, table.md, table.csv and study.json."""

import argparse
import math
import sys
import threading

from benchmarks.accuracy.arms import NNUNET, UNET, Arm
from benchmarks.accuracy.curve import write_curve
from benchmarks.common import machine
from lagseg_jax.reports.markdown import plain, table_head, table_row
from lagseg_jax.reports.study_table import Result, table_rows, write_table
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json, write_json

OF_PEER = {UNET: "peer_size", NNUNET: "nnunet_memory"}  # the option that only it obeys
RUN_HEAD = ("run", "least Dice", "steps", "minutes of training", "parameters", "s per volume")
OF_RESULT = ("cases", "training_cases", "warning")


class Record:
    """The runs that are done, on disk after each of them.

    Args:
        options: of the command; a workdir is of one set of them.
        arms: that are to be run.
        reference: the arm that the others are compared with, or None.
    """

    def __init__(self, options: argparse.Namespace, arms: dict[str, Arm], reference: str | None):
        self.options, self.arms, self.reference = options, arms, reference
        self.failures: dict[tuple[str, int], str] = {}
        self._writing = threading.Lock()  # arms side by side may end at the same time
        self.path = options.workdir / "runs.json"
        told = ("data", "config", "set", "minutes", "counts", "side_by_side", "clock")
        methods = {arm.method for arm in arms.values()}
        told += tuple(name for method, name in OF_PEER.items() if method in methods)
        self.facts = {name: getattr(options, name) for name in told}
        self.runs: list[dict] = []
        if self.path.exists():
            content = read_json(self.path, "what this command writes")
            before = content["facts"]
            if any(before.get(name, value) != value for name, value in self.facts.items()):
                raise InputError(f"{self.path} is of other options, expected {before}")
            self.facts = before | self.facts
            self.runs = [run | {"cases": _scores(run["cases"])} for run in content["runs"]]

    def has(self, arm: str, seed: int) -> bool:
        """Whether this run is done."""
        return any((run["arm"], run["seed"]) == (arm, seed) for run in self.runs)

    def steps(self, arm: str) -> int | None:
        """Of a run that is done, of this arm or with another number of patients; None: of none."""
        alike = {n for n, a in self.arms.items() if a.series and a.series == self.arms[arm].series}
        return next((run["steps"] for run in self.runs if run["arm"] in {arm, *alike}), None)

    def add(self, arm: str, seed: int, facts: dict) -> None:
        """Keeps a run."""
        with self._writing:
            self.runs.append({"arm": arm, "seed": seed} | facts)
            content = {"facts": self.facts, "machine": machine.describe(), "runs": self.runs}
            write_json(self.path, content)
            print(self.write(), file=sys.stderr, flush=True)

    def failed(self, arm: str, seed: int, reason: str) -> None:
        """Says so; the others go on."""
        self.failures[arm, seed] = reason
        print(f"{arm}, seed {seed}: {reason}", file=sys.stderr, flush=True)

    def write(self) -> str:
        """Writes the table of what is there, and returns it."""
        results = [
            Result(run["arm"], -1, run["seed"], *(run[fact] for fact in OF_RESULT))
            for run in self.runs
        ]
        changes = {name: arm.changes for name, arm in self.arms.items()}
        study = {"title": f"{self.options.minutes:g} minutes of training", "arms": changes}
        study["reference"] = self.reference
        runs = [
            {"run": f"{arm} seed{seed}", "state": self._state(arm, seed), "command": ""}
            | {"reason": self.failures.get((arm, seed), "")}
            for seed in range(self.options.seeds)
            for arm in self.arms
        ]
        rows = table_rows(results, list(self.arms), self.reference)
        text = write_table(self.options.workdir, study, rows, runs, results)
        lines = [text, *write_curve(self.options.workdir, self.arms, results)]
        return "\n".join([*lines, *self._run_lines()])

    def _run_lines(self) -> list[str]:
        """A line for each run, by arm and seed; those of arms that are left out now come last."""
        place = {arm: number for number, arm in enumerate(self.arms)}
        lines = table_head([*RUN_HEAD])
        for run in sorted(self.runs, key=lambda r: (place.get(r["arm"], len(place)), r["seed"])):
            least = min(scores["dice"] for scores in run["cases"].values())
            cells = [f"{run['arm']}, seed {run['seed']}", f"{least:.3f}", f"{run['steps']}"]
            cells += [f"{run['seconds'] / 60:.1f}", f"{run['parameters'] / 1e6:.2f} M"]
            lines.append(table_row([*map(plain, cells), f"{run['volume_seconds']:.1f}"]))
        return lines

    def _state(self, arm: str, seed: int) -> str:
        failed = "failed" if (arm, seed) in self.failures else "missing"
        return "finished" if self.has(arm, seed) else failed


def _scores(cases: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float]]:
    """As they were before JSON, which has null for NaN."""
    return {
        case: {metric: math.nan if value is None else value for metric, value in scores.items()}
        for case, scores in cases.items()
    }
