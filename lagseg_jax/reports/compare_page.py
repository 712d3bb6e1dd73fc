"""Writes report.html of a comparison: all tools on the same cases, with plots."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lagseg_jax.evaluation.compare import Scores, compare_pair
from lagseg_jax.evaluation.metrics import DIGITS, summarise
from lagseg_jax.reports.blocks import agreements, case_table, facts, missing, note, table
from lagseg_jax.reports.figures import number
from lagseg_jax.reports.html import DASH, RESEARCH, Html, document, join, tag
from lagseg_jax.reports.paired_figure import paired_figure
from lagseg_jax.reports.sections import VOLUME
from lagseg_jax.runtime.console import count_of
from lagseg_jax.runtime.files import write_atomically


def write_comparison_page(
    folder: Path, truth: str, scores: Sequence[Scores], told: Mapping[str, str]
) -> Path:
    """Writes `report.html`; arguments as of `evaluation.compare.write_comparison`."""
    names = list(dict.fromkeys(case for one in scores for case in (*one.rows, *one.problems)))
    about = {"Truth": truth, **{name.capitalize(): text for name, text in told.items() if text}}
    header = join(
        tag("h1", f"Comparison: {', '.join(one.name for one in scores)}"),
        tag("p", f"{count_of(len(names), 'case')}, each judged on the grid of its reference."),
        facts(about),
        tag("p", RESEARCH, class_="small muted"),
    )
    sections = {
        "Results": _results(scores),
        "Pairs": _pairs(scores, names),
        "Volume": _volume(scores, names),
        "Cases": _cases(scores, names),
    }
    path = folder / "report.html"
    write_atomically(path, document("Comparison of masks", header, sections))
    return path


def _column(one: Scores, names: Sequence[str], metric: str) -> np.ndarray:
    return np.array([one.rows.get(case, {}).get(metric, np.nan) for case in names], float)


def _title(metric: str) -> str:
    title, unit, _ = VOLUME[metric]
    return f"{title} ({unit})" if unit else title


def _magnitude(metric: str) -> str:
    title = _title(metric)
    return f"|{title}|" if metric == "volume_error_ml" else title


def _results(scores: Sequence[Scores]) -> Html:
    rows = []
    for one in scores:
        summary = summarise(list(one.rows.values()))
        cells = [one.name, f"{len(one.rows)} of {len(one.rows) + len(one.problems)}"]
        for metric, (_, _, digits) in VOLUME.items():
            mean, sd = (
                np.nan if v is None else v for v in map(summary[metric].get, ("mean", "sd"))
            )
            cells.append(f"{number(mean, digits)} ± {number(sd, digits)}")
        rows.append(cells)
    problems = [sentence for one in scores for sentence in one.problems.values()]
    return join(
        tag("h2", "Whole volumes"),
        tag(
            "p", "Mean ± SD over the cases that could be scored; volume error: prediction - truth."
        ),
        table(["Masks", "Cases", *map(_title, VOLUME)], rows),
        tag("p", tag("strong", f"{count_of(len(problems), 'problem')}:")) if problems else "",
        tag("ul", [tag("li", sentence) for sentence in problems]) if problems else "",
    )


def _pairs(scores: Sequence[Scores], names: Sequence[str]) -> Html:
    columns = {one.name: _column(one, names, "dice") for one in scores}
    parts = [
        tag("h2", "Dice of every case"),
        tag("p", "A line joins a case from tool to tool; the mark is the mean."),
        tag("figure", paired_figure(columns, names)),
    ]
    for a, b in itertools.combinations(scores, 2):
        rows = [
            [_magnitude(metric), *_difference(row, DIGITS[metric])]
            for metric, row in compare_pair(a, b).items()
        ]
        heads = ["Metric", "Mean difference", "95 % interval", "Better", "Worse", "Equal", "p"]
        parts += [tag("h2", f"{a.name} minus {b.name}"), table(heads, rows)]
    if len(scores) > 1:
        parts.append(
            note(
                "Over the cases of both; better, worse and equal are counts of cases; interval: "
                "percentile bootstrap over cases; p: paired two-sided Wilcoxon test. Of the volume "
                "error the magnitude counts."
            )
        )
    return join(parts)


def _difference(row: Mapping[str, float | int | None], digits: int) -> list[str]:
    def text(name: str) -> str:
        value = row[name]
        return DASH if value is None else number(value, digits)

    p = DASH if row["p"] is None else f"{row['p']:.3g}"
    interval = f"{text('low')} to {text('high')}"
    counts = (str(row[name]) for name in ("wins", "losses", "ties"))
    return [text("mean_difference"), interval, *counts, p]


def _volume(scores: Sequence[Scores], names: Sequence[str]) -> Html:
    volumes = {
        one.name: (_column(one, names, "truth_ml"), _column(one, names, "prediction_ml"))
        for one in scores
    }
    return join(tag("h2", "Volume of the left atrium"), agreements(volumes, names))


def _cases(scores: Sequence[Scores], names: Sequence[str]) -> Html:
    if not names:
        return missing("Cases", "There are none.")
    columns = {one.name: _column(one, names, "dice") for one in scores}
    text = "Dice. Press a column's name to sort by it; a dash: not scored."
    return join(tag("h2", "Cases"), tag("p", text), case_table(names, columns, 3))
