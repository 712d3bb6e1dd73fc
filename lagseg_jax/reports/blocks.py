"""The small pieces of text and the tables that all pages are made of."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lagseg_jax.evaluation.statistics import bland_altman
from lagseg_jax.reports.figures import bland_altman_figure, number
from lagseg_jax.reports.html import Content, Html, join, tag

Columns = Mapping[str, np.ndarray]  # tool -> values (cases,), NaN where there is none


def note(*content: Content) -> Html:
    """A paragraph in small print."""
    return tag("p", *content, class_="small muted")


def missing(title: str, sentence: str) -> Html:
    """A section that has nothing to show."""
    return join(tag("h2", title), tag("p", sentence))


def facts(pairs: dict[str, str]) -> Html:
    """A list of names and what they are."""
    return tag("dl", [join(tag("dt", name), tag("dd", text)) for name, text in pairs.items()])


def banner(title: str, sentence: str) -> Html:
    """What readers must know before anything else."""
    return tag("p", tag("strong", title), f" {sentence}", class_="banner", role="alert")


def table(heads: Sequence[str], rows: Iterable[Sequence[Content]]) -> Html:
    """A table of texts."""
    head = tag("tr", [tag("th", title, scope="col") for title in heads])
    body = [tag("tr", [tag("td", cell) for cell in row]) for row in rows]
    return tag("div", tag("table", tag("thead", head), tag("tbody", body)), class_="scroll")


def sorting_head(title: str, sort: str = "none", kind: str | None = None) -> Html:
    """A column's name, by which the page's script sorts; `sort` is how its rows lie now."""
    return tag("th", title, scope="col", tabindex=0, aria_sort=sort, class_=kind)


def name_cell(name: str, shown: str | None = None) -> Html:
    """The cell of a case's name, shown as it is or as a link."""
    return tag("td", shown or name, data_value=name)


def number_cell(value: float, digits: int) -> Html:
    """A cell that is sorted by its value, not by what is shown of it."""
    plain = f"{value:.9g}" if np.isfinite(value) else ""
    return tag("td", number(value, digits), data_value=plain)


def case_table(names: Sequence[str], columns: Columns, digits: int) -> Html:
    """A row for each case, a column for each tool; the page's script sorts it."""
    rows = [
        tag("tr", name_cell(name), [number_cell(v[case], digits) for v in columns.values()])
        for case, name in enumerate(names)
    ]
    head = tag("thead", tag("tr", map(sorting_head, ("Case", *columns))))
    return tag("div", tag("table", head, tag("tbody", rows)), class_="scroll")


def agreements(volumes: Mapping[str, tuple[np.ndarray, np.ndarray]], names: Sequence[str]) -> Html:
    """A Bland-Altman plot for each tool: tool -> volumes (cases,) of truth and prediction in mL."""
    parts = []
    for tool, (truth, prediction) in volumes.items():
        limits = bland_altman(truth, prediction)
        bias, low, high = (f"{number(limits[name], 1)} mL" for name in ("bias", "low", "high"))
        figure = bland_altman_figure(truth, prediction, names, limits)
        text = note(f"Bias {bias}, limits of agreement {low} to {high} (bias ± 1.96 SD).")
        parts.append(tag("figure", tag("figcaption", tag("strong", tool)), figure, text))
    return tag("div", parts, class_="figures")
