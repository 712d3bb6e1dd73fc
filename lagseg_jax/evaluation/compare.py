"""Scores masks of any tool against the truth, and compares several tools case by case.

Every case is judged on the grid of the truth, by the metrics of an evaluation. Geometry is checked,
never aligned by index. What is missing or cannot be used is named, the rest is scored all the same.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lagseg_jax.data.label_checks import label_value, unlike_values
from lagseg_jax.evaluation.mask_files import find_masks
from lagseg_jax.evaluation.metrics import DIGITS, METRICS, case_metrics, summarise
from lagseg_jax.evaluation.statistics import bootstrap_interval, mean_and_sd, paired_wilcoxon
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.labels import LabelRule, is_without, mask_and_say
from lagseg_jax.imaging.reading import AS_STORED, Reading
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.volume import on_grid_of, read_volume
from lagseg_jax.runtime.console import in_parallel, log
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import short_name, without_nan, write_csv, write_json

# What is compared case by case; -1 where less is better.
COMPARED = {"dice": 1, "iou": 1, "hd95_mm": -1, "assd_mm": -1, "volume_error_ml": -1}
UNITS = {"hd95_mm": "mm", "assd_mm": "mm", "volume_error_ml": "mL"}
Row = dict[str, float]  # of `case_metrics`
MISSING: Row = dict.fromkeys(("dice", "iou", "slice_dice", "slice_iou"), 0.0)
RULE = "Means over all cases; a missing or unreadable mask counts as Dice and IoU of 0, without mm."


@dataclasses.dataclass(frozen=True)
class Scores:
    """One set of masks.

    Attributes:
        name: short, unique.
        rows: {case: `case_metrics`} of the cases that could be scored.
        problems: {case: sentence} of the others.
        no_truth: those of the others whose truth cannot be used, which count for nobody.
    """

    name: str
    rows: dict[str, Row]
    problems: dict[str, str]
    no_truth: set[str] = dataclasses.field(default_factory=set)

    @property
    def counted(self) -> dict[str, Row]:
        """What means are over: `rows`, and of a missing or unreadable mask Dice and IoU of 0."""
        missing = (case for case in self.problems if case not in self.no_truth)
        return self.rows | {case: MISSING for case in missing}


class _TruthError(InputError):
    """The truth of a case cannot be used."""


RULES = LabelRule(option="--label_"), LabelRule(option="--prediction_")


def score_masks(
    truth: Mapping[str, Path],
    folders: Sequence[Path],
    rules: tuple[LabelRule, LabelRule] = RULES,
    reading: Reading = AS_STORED,
) -> list[Scores]:
    """Scores every folder of masks; each file is read once, in parallel.

    Args:
        truth: {case: label file}.
        folders: of masks named by case; files of other cases do not count.
        rules: which voxels of the truth and of the predictions are atrium.
        reading: what is told about the files; "geometry" in its `allow` lays masks of the truth's
            shape over it by index.

    Returns:
        The scores in the order of the folders.

    Raises:
        InputError: a folder without masks, or without a single one of these cases.
    """
    masks = [(folder, find_masks(folder)) for folder in folders]
    for folder, found in masks:
        if not {*truth, *map(short_name, truth)} & found.keys():
            raise InputError(
                f"{folder}: masks of {', '.join(itertools.islice(found, 3))} found, expected the "
                f"names of the cases, such as {next(iter(truth))}."
            )
    short = [folder.name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    scores = [Scores(name, {}, {}) for name in names]
    values: list[list[float]] = [[] for _ in ("truth", *names)]

    def score_case(case: str) -> list[Row | InputError]:
        return _score_case(case, truth[case], masks, rules, reading, values)

    for case, outcomes in zip(truth, in_parallel("scoring cases", score_case, list(truth))):
        for one, outcome in zip(scores, outcomes):
            if isinstance(outcome, InputError):
                one.problems[case] = str(outcome)
                one.no_truth.update([case] * isinstance(outcome, _TruthError))
            else:
                one.rows[case] = outcome
    for name, some, rule in zip(("truth", *names), values, (rules[0], *[rules[1]] * len(names))):
        _warn_of_unlike_values(name, some, rule)
    return scores


def _warn_of_unlike_values(name: str, values: Sequence[float], rule: LabelRule) -> None:
    code, _, counts = unlike_values(values, rule)
    if code == "unlike_values":
        told = name, counts, rule.option
        log.warning("%s: the only value is %s; all count as atrium, %svalue names its", *told)


def _score_case(
    case: str,
    truth: Path,
    masks: Sequence[tuple[Path, Mapping[str, Path]]],
    rules: tuple[LabelRule, LabelRule],
    reading: Reading,
    values: Sequence[list[float]],
) -> list[Row | InputError]:
    """One case in every folder, (folder, {case: mask}): its metrics, or why there are none.

    The value of the atrium is added to those of the truth, and to those of each folder.
    """
    try:
        label = _mask(read_volume(truth, reading), rules[0], values[0])
    except InputError as error:
        return [_TruthError(str(error))] * len(masks)
    axis = to_slices(label.array, label.affine)[1].volume_axis
    outcomes: list[Row | InputError] = []
    for (folder, found), some in zip(masks, values[1:]):
        try:
            file = found.get(case) or found.get(short_name(case))
            if file is None:
                raise InputError(f"{folder}: no mask of {case} found, expected one.")
            mask = on_grid_of(label, _read_mask(file, rules[1], reading, some), reading.allow)
            outcomes.append(case_metrics(label.array, mask.array, label.affine, axis))
        except InputError as error:
            outcomes.append(error)
    return outcomes


def _mask(volume: Volume, rule: LabelRule, values: list[float]) -> Volume:
    mask = mask_and_say(volume, rule)
    if mask.array.any():
        values.append(label_value(volume, mask))
    return mask


def _read_mask(path: Path, rule: LabelRule, reading: Reading, values: list[float]) -> Volume:
    """A prediction; without the atrium's value, where that is named, it is an empty mask."""
    volume = read_volume(path, reading)
    if is_without(volume, rule):
        return dataclasses.replace(volume, array=np.zeros(volume.array.shape, np.uint8))
    return _mask(volume, rule, values)


def compare_pair(a: Scores, b: Scores) -> dict[str, dict[str, float | int | None]]:
    """The differences a - b over the cases that both have, by metric.

    Of the volume error the magnitude counts.

    Returns:
        {metric: {"n", "mean_difference", "low", "high" (95 % bootstrap interval), "wins" of a,
        "losses", "ties", "p" (two-sided paired Wilcoxon test)}}; None instead of NaN. A case whose
        metric is not defined for both (distances of empty masks) is left out.
    """
    cases = [case for case in a.rows if case in b.rows]
    result = {}
    for metric, better in COMPARED.items():
        pairs = np.abs([[s.rows[case][metric] for s in (a, b)] for case in cases]).reshape(-1, 2)
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        difference = pairs[:, 0] - pairs[:, 1]
        low, high = bootstrap_interval(difference)
        result[metric] = {
            "n": len(difference),
            "mean_difference": mean_and_sd(difference)[0],
            "low": low,
            "high": high,
            "wins": int((better * difference > 0).sum()),
            "losses": int((better * difference < 0).sum()),
            "ties": int((difference == 0).sum()),
            "p": paired_wilcoxon(pairs[:, 0], pairs[:, 1]),
        }
    return without_nan(result)


def comparison_lines(scores: Sequence[Scores]) -> list[str]:
    """The table for people: means and SDs of every set of masks, then every pair."""
    width = max(len(one.name) for one in scores) + 2
    titles = {metric: f"{metric.removesuffix('_mm').removesuffix('_ml')}" for metric in COMPARED}
    head = "".join(
        f"{title + (f' ({UNITS[m]})' if m in UNITS else ''):>22}" for m, title in titles.items()
    )
    lines = [f"{'':{width}}{'cases':>12}{head}"]
    for one in scores:
        summary = summarise(list(one.counted.values()))
        cells = (f"{_mean_sd(summary[metric], DIGITS[metric]):>22}" for metric in COMPARED)
        lines.append(f"{one.name:{width}}{_counted(one):>12}{''.join(cells)}")
    lines.append(RULE)
    for a, b in itertools.combinations(scores, 2):
        common, total = len(a.rows.keys() & b.rows.keys()), len(a.rows) + len(a.problems)
        lines.append(f"\n{a.name} minus {b.name}, over the {common} of {total} cases of both:")
        for metric, row in compare_pair(a, b).items():
            if row["mean_difference"] is None:
                continue
            p = "too few pairs to test" if row["p"] is None else f"Wilcoxon p = {row['p']:.3g}"
            what = f"|{metric}|" if metric == "volume_error_ml" else metric
            mean, low, high = (
                f"{row[name]:+.{DIGITS[metric]}f}" for name in ("mean_difference", "low", "high")
            )
            lines.append(
                f"  {what:18}{mean} [{low}, {high}]"
                f", better in {row['wins']}, worse in {row['losses']}, equal in {row['ties']} of "
                f"{row['n']}; {p}"
            )
    return lines


def _counted(one: Scores) -> str:
    """How many masks could be scored, and how many there should be."""
    return f"{len(one.rows)} of {len(one.rows) + len(one.problems)}"


def _mean_sd(value: Mapping, digits: int) -> str:
    if value["mean"] is None:
        return "-"
    spread = "" if value["sd"] is None else f" +- {value['sd']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread}"


def write_comparison(
    folder: Path, truth: str, scores: Sequence[Scores], told: Mapping[str, str] | None = None
) -> None:
    """Writes `per_case.csv` and `comparison.json`; `told` is what was said about the geometry."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"predictions": one.name, "case": case, **one.counted.get(case, {}), "problem": problem}
        for one in scores
        for case, problem in (dict.fromkeys(one.rows, "") | one.problems).items()
    ]
    write_csv(folder / "per_case.csv", ["predictions", "case", *METRICS, "problem"], rows)
    content = {
        "truth": truth,
        "told": dict(told or {}),
        "rule": RULE,
        "predictions": {
            one.name: {
                **summarise(list(one.counted.values())),
                "n_missing": len(one.problems) - len(one.no_truth),
                "n_without_truth": len(one.no_truth),
                "problems": one.problems,
            }
            for one in scores
        },
        "comparisons": [
            {
                **{"a": a.name, "b": b.name, "n_common": len(a.rows.keys() & b.rows.keys())},
                "differences": compare_pair(a, b),
            }
            for a, b in itertools.combinations(scores, 2)
        ],
    }
    write_json(folder / "comparison.json", content)
