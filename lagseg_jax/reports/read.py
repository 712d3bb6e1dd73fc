"""Reads what an evaluation left, for its report; a file that cannot be what it says is refused."""

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from lagseg_jax.evaluation.metrics import METRICS
from lagseg_jax.inference.uncertainty import COLUMNS, UNLIKE
from lagseg_jax.runs.metrics_log import read_rows
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json, read_text

WRITTEN = "what an evaluation writes"
NUMBER = int | float
ENCODER = {"variant": str, "weights": str}
CHECK = {"consistent": bool | None, "found": NUMBER | None, "floor": NUMBER | None}
# What the report needs of the two JSON files, and of which type.
SUMMARY = {
    **{"encoder": ENCODER, "step": NUMBER, "n_empty_truth": int, "n_empty_prediction": int},
    **{"n_distances_excluded": int, "dice_iou_check": {"volume": CHECK, "slice": CHECK}},
}
MANIFEST: dict[str, Any] = {
    **{"date": str, "command": str, "git": str | None, "seed": int, "checkpoint_step": int},
    "encoder": {**ENCODER, "sha256": str | None},
    "dataset": {"root": str, "cases": int, "sha256": str},
    "devices": {"count": int, "kind": str, "platform": str, "processes": int},
    **{"versions": {}, "config": {"fusion": {}}},
}
EXTERNAL = {"run": str, "partners": list, "name": str, "seen_cases": list}
CURVES = ("loss", "dice", "validation_loss", "validation_dice")
PARTS = {"train": "training", "validation": "validation", "test": "test"}  # in words
LARGEST = 1e30  # a number beyond it is none that a run wrote, and cannot be drawn


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one evaluation left; `None` or empty where a file is not there.

    Attributes:
        name: of the run.
        names: of the cases.
        values: metric -> float64 (cases,), NaN where there is none.
        summary: content of summary.json.
        manifest: content of manifest.json, or None.
        curve: `step` and the numbers of `CURVES` in each row of metrics.jsonl; empty without it.
        scales: of the fusion weights, "1/14" and finer.
        fusion: fusion weights (S, L), or None.
        overlays: rank ("worst", ...) -> PNG file, worst first.
        datasets: of the cases, "" where there is only one.
        review: whether review.html lies beside the report.
        split: how parts were told apart, "by patient (...)" or only by file; "": not known.
        parts: {"train": number of cases, ...} of the run; empty: not known.
        allowed: codes of the problems of the data that were accepted.
        estimates: column of estimates -> (cases,), NaN where there is none; empty without them.
        unlike: in what each case differs from the training cases; "": in nothing.
    """

    name: str
    names: list[str]
    values: dict[str, np.ndarray]
    summary: dict[str, Any]
    manifest: dict[str, Any] | None
    curve: list[dict[str, float]]
    scales: list[str]
    fusion: np.ndarray | None
    overlays: dict[str, Path]
    datasets: Sequence[str] = ()
    review: bool = False
    split: str = ""
    parts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    allowed: Sequence[str] = ()
    estimates: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    unlike: Sequence[str] = ()

    @property
    def split_line(self) -> str:
        """The parts and how they were told apart, in words; "" where nothing is known."""
        counts = [f"{count} {PARTS[part]}" for part, count in self.parts.items()]
        told = [f"split {self.split}"] if self.split else []
        return ": ".join(told + [f"{', '.join(counts)} cases"] * bool(counts))

    @property
    def allowed_line(self) -> str:
        """The problems that were accepted, in words; "" without any."""
        codes = ", ".join(self.allowed)
        return f"accepted problems of the data: {codes}" if codes else ""


def read_evaluation(folder: Path) -> Evaluation:
    """Reads what an evaluation wrote into this folder, and metrics.jsonl beside the folder.

    Raises:
        InputError: summary.json or per_case.csv is missing, or a file is damaged.
    """
    summary = _read_json(folder / "summary.json", SUMMARY)
    path = folder / "manifest.json"
    manifest = _read_json(path, MANIFEST) if path.exists() else None
    names, datasets, values = read_cases(folder / "per_case.csv")
    estimates, unlike = _read_estimates(folder / "per_case.csv")
    scales, fusion = _read_fusion(folder / "fusion_weights.csv")
    split = folder.parent / "splits.json"
    return Evaluation(
        name=_name(folder, manifest),
        names=names,
        values=values,
        estimates=estimates,
        unlike=unlike,
        summary=summary,
        manifest=manifest,
        curve=_read_curve(folder.parent / "metrics.jsonl"),
        scales=scales,
        fusion=fusion,
        overlays=_find_overlays(folder),
        split=read_split_rule(split),
        parts=_read_parts(split),
        allowed=_allowed(manifest),
        datasets=datasets,
        review=(folder / "review.html").is_file(),
    )


def _name(folder: Path, manifest: dict[str, Any] | None) -> str:
    """Of the run; with that of the test set, where it is not the run's own."""
    external = manifest and manifest.get("external")
    if not external:
        return folder.resolve().parent.name
    if wrong := _unlike(external, EXTERNAL):
        raise _damaged(folder / "manifest.json", wrong)
    more = f" and {len(external['partners'])} more" * bool(external["partners"])
    return f"{Path(external['run']).name}{more} on {external['name']}"


def read_split_rule(path: Path) -> str:
    """What the splits.json of a run says of its patients; "" without it, or without a word."""
    if not path.exists():
        return ""
    found = read_json(path, "the split of a run").get("patients")
    return found if isinstance(found, str) else ""


def _read_parts(path: Path) -> dict[str, int]:
    """How many cases each part of a run's splits.json has."""
    content = read_json(path, "the split of a run") if path.exists() else {}
    parts = {name: content.get(name) for name in PARTS}
    return {name: len(cases) for name, cases in parts.items() if isinstance(cases, list)}


def _allowed(manifest: dict[str, Any] | None) -> list[str]:
    """`config.data.allow` of a manifest; none, where that does not say it."""
    data = (manifest or {}).get("config", {}).get("data")
    found = data.get("allow") if isinstance(data, dict) else None
    return [str(code) for code in found] if isinstance(found, list) else []


def _find_overlays(folder: Path) -> dict[str, Path]:
    """The pictures that lie here: a link may lead to what was not meant for the page."""
    found = {}
    for path in (folder / "overlays").glob("*.png"):
        if path.is_file() and path.resolve() == folder.resolve() / "overlays" / path.name:
            found[path.name.split("_")[0]] = path
    return {rank: found[rank] for rank in ("worst", "median", "best") if rank in found}


def _read_json(path: Path, expected: Mapping[str, Any]) -> dict[str, Any]:
    content = read_json(path, WRITTEN)
    if wrong := _unlike(content, expected):
        raise _damaged(path, wrong)
    return content


def _unlike(content: Any, expected: Any, field: str = "its content") -> str:
    """Where JSON is not as expected, in words; empty if it is."""
    if not isinstance(expected, Mapping):
        fits = isinstance(content, expected)
        if isinstance(content, bool):  # to Python, one is a whole number, too
            fits = bool in (expected, *get_args(expected))
        elif isinstance(content, NUMBER):
            fits = fits and _is_number(content)
        return "" if fits else f"{field} is {str(content)[:40]!r}"
    if not isinstance(content, dict):
        return f"{field} is no object"
    missing = [name for name in expected if name not in content]
    if missing:
        return f"no {', '.join(missing)}"
    return next(filter(None, (_unlike(content[n], kind, n) for n, kind in expected.items())), "")


def _read_curve(path: Path) -> list[dict[str, float]]:
    """The numbers that the rows of metrics.jsonl have; rows without a step are left out."""
    try:
        rows = read_rows(path) if path.exists() else []
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise _damaged(path, type(error).__name__) from None
    numbers = [
        {name: row[name] for name in ("step", *CURVES) if _is_number(row.get(name))} for row in rows
    ]
    return [row for row in numbers if "step" in row]


def _is_number(value: Any) -> bool:
    is_one = isinstance(value, NUMBER) and not isinstance(value, bool)
    return is_one and abs(value) < LARGEST  # never true for NaN


def read_cases(
    path: Path, metrics: Sequence[str] = METRICS
) -> tuple[list[str], list[str], dict[str, np.ndarray]]:
    """Names, datasets and metrics of a per_case.csv: see `Evaluation`.

    Raises:
        InputError: it is none.
    """
    try:
        rows = _rows(path)
        names = [row["case"] for row in rows]
        datasets = [row.get("dataset") or "" for row in rows]
        columns = {m: np.array([float(row[m] or math.nan) for row in rows]) for m in metrics}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise _damaged(path, f"{type(error).__name__} {error}") from None
    for metric, column in columns.items():
        if not (np.isnan(column) | (np.abs(column) < LARGEST)).all():
            raise _damaged(path, f"{metric} is beyond {LARGEST:g}")
    return names, datasets, columns


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(read_text(path))))


def _read_estimates(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Estimates of a per_case.csv that `read_cases` has accepted: see `Evaluation`."""
    rows = _rows(path)
    unlike = [row.get(UNLIKE) or "" for row in rows]
    columns = [name for name in COLUMNS if name != UNLIKE and name in rows[0]] if rows else []
    try:
        found = {n: np.array([float(row[n] or math.nan) for row in rows]) for n in columns}
    except (ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from None
    if any((np.abs(values) >= LARGEST).any() for values in found.values()):
        raise _damaged(path, f"an estimate is beyond {LARGEST:g}")
    return found, unlike


def _read_fusion(path: Path) -> tuple[list[str], np.ndarray | None]:
    if not path.exists():
        return [], None
    try:
        _, first, *rest = csv.reader(io.StringIO(read_text(path)))
        rows = [first, *rest]
        scales, weights = [row[0] for row in rows], np.array([row[1:] for row in rows], float)
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise _damaged(path, f"{type(error).__name__} {error}") from None
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any(axis=1).all()):
        raise _damaged(path, "weights that are no shares")
    return scales, weights


def _damaged(path: Path, found: str) -> InputError:
    return InputError(f"{path} cannot be read ({found}), expected {WRITTEN}")
