"""evaluation folder -> everything its report shows: rows, summary, curves, weights, pictures."""

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lagseg_jax.evaluation.metrics import METRICS
from lagseg_jax.runs.metrics_log import read_rows
from lagseg_jax.runtime.errors import InputError

# What the report needs of the two JSON files.
SUMMARY = (
    *("encoder", "step", "n_empty_truth", "n_empty_prediction", "n_distances_excluded"),
    "dice_iou_check",
)
MANIFEST = (
    *("date", "command", "git", "seed", "checkpoint_step", "encoder", "dataset", "devices"),
    *("versions", "config"),
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one evaluation left; `None` or empty where a file is not there.

    Attributes:
        name: of the run.
        names: of the cases.
        values: metric -> float64 (cases,), NaN where there is none.
        summary: content of summary.json.
        manifest: content of manifest.json, or None.
        curve: rows of metrics.jsonl with a step; empty without that file.
        scales: of the fusion weights, "1/14" and finer.
        fusion: fusion weights (S, L), or None.
        overlays: rank ("worst", ...) -> PNG file, worst first.
    """

    name: str
    names: list[str]
    values: dict[str, np.ndarray]
    summary: dict
    manifest: dict | None
    curve: list[dict]
    scales: list[str]
    fusion: np.ndarray | None
    overlays: dict[str, Path]


def read_evaluation(folder: Path) -> Evaluation:
    """Reads what `lagseg_jax.evaluate.evaluate` wrote, and metrics.jsonl beside the folder.

    Raises:
        InputError: summary.json or per_case.csv is missing, or a file is damaged.
    """
    summary = _read_json(folder / "summary.json", SUMMARY)
    manifest = folder / "manifest.json"
    names, values = _read_cases(folder / "per_case.csv")
    metrics = folder.parent / "metrics.jsonl"
    scales, fusion = _read_fusion(folder / "fusion_weights.csv")
    pictures = {path.name.split("_")[0]: path for path in (folder / "overlays").glob("*.png")}
    return Evaluation(
        name=folder.resolve().parent.name,
        names=names,
        values=values,
        summary=summary,
        manifest=_read_json(manifest, MANIFEST) if manifest.exists() else None,
        curve=[row for row in read_rows(metrics) if "step" in row] if metrics.exists() else [],
        scales=scales,
        fusion=fusion,
        overlays={r: pictures[r] for r in ("worst", "median", "best") if r in pictures},
    )


def _read_json(path: Path, fields: Sequence[str]) -> dict:
    try:
        content = json.loads(path.read_text())
        missing = [field for field in fields if field not in content]
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path, type(error).__name__) from None
    if missing:
        raise _damaged(path, f"no {', '.join(missing)}")
    return content


def _read_cases(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        names = [row["case"] for row in rows]
        columns = {m: np.array([float(row[m] or math.nan) for row in rows]) for m in METRICS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"{type(error).__name__} {error}") from None
    return names, columns


def _read_fusion(path: Path) -> tuple[list[str], np.ndarray | None]:
    if not path.exists():
        return [], None
    try:
        with path.open(newline="") as file:
            _, first, *rest = csv.reader(file)
        rows = [first, *rest]
        return [row[0] for row in rows], np.array([row[1:] for row in rows], float)
    except (OSError, ValueError, IndexError) as error:
        raise _damaged(path, f"{type(error).__name__} {error}") from None


def _damaged(path: Path, found: str) -> InputError:
    return InputError(f"{path} cannot be read ({found}), expected what an evaluation writes")
