"""Draws the figures of the report as SVG, which takes its colours from the page around it.

Classes instead of colours (`dot`, `line first`, ...): the report's style sheet gives them the
colours of the light, the dark and the printed page.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from lagseg_jax.reports.html import DASH, MINUS, Content, Html, tag

WIDTH, HEIGHT = 480, 300  # of a figure, in its own units; text is 13 high
LEFT, RIGHT, TOP, BOTTOM = 58, 44, 18, 46  # around the area with the data
MOST_POINTS = 400  # of a curve
CURVES = ("first", "second")  # their classes
GOLDEN = 0.618034  # multiples of it, modulo 1, spread evenly: dots of one value stay apart


def number(value: float, digits: int) -> str:
    """A number to be read: with a true minus sign, and a dash where there is none."""
    if not np.isfinite(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def svg(
    width: float, height: float, about: str, *content: Content, style: str | None = None
) -> Html:
    """A figure of this size in its own units; the page decides how large it is shown.

    Args:
        width: of the drawing.
        height: of the drawing.
        about: what it shows, for those who cannot see it.
        content: what is drawn.
        style: class of the figure.
    """
    box = f"0 0 {width:g} {height:g}"
    return tag("svg", *content, class_=style, viewBox=box, role="img", aria_label=about)


def label(
    x: float, y: float, text: Content, anchor: str | None = None, style: str | None = None
) -> Html:
    """A line of text; `anchor` is the part of it that lies at x: start, middle or end."""
    x, y = round(x, 1), round(y, 1)
    return tag("text", text, class_=style, x=f"{x:g}", y=f"{y:g}", text_anchor=anchor)


def strip(
    values: np.ndarray, names: Sequence[str], interval: tuple[float, float], digits: int
) -> Html | str:
    """One dot for each case, and below them the mean with its interval.

    Args:
        values: (cases,), NaN where there is none; such cases are left out.
        names: of the cases.
        interval: of the mean; NaN draws none.
        digits: behind the point, in the texts.
    """
    finite = np.flatnonzero(np.isfinite(values))
    if not finite.size:
        return ""
    low, high = float(values[finite].min()), float(values[finite].max())
    to_x = scale(low, high, 5, 175) if high > low else lambda value: 90.0
    parts = [
        dot(
            to_x(values[i]),
            8 + 20 * (i * GOLDEN % 1),
            3,
            f"{names[i]}: {number(values[i], digits)}",
        )
        for i in finite.tolist()
    ]
    parts.append(stroke(f"M{to_x(values[finite].mean()):.1f} 33v10", "line mean"))
    if np.isfinite(interval).all():
        start, stop = map(to_x, interval)
        parts.append(stroke(f"M{start:.1f} 38H{stop:.1f}", "line second"))
    parts.append(label(0, 60, number(low, digits)))
    if high > low:
        parts.append(label(180, 60, number(high, digits), "end"))
    return svg(180, 64, "one dot for each case, the mean below them", parts)


def bland_altman_figure(
    truth_ml: np.ndarray, prediction_ml: np.ndarray, names: Sequence[str], limits: dict[str, float]
) -> Html | str:
    """Differences of two volumes over their means, with bias and limits of agreement.

    Args:
        truth_ml: (cases,) in mL, NaN where there is none.
        prediction_ml: (cases,) in mL.
        names: of the cases.
        limits: from `statistics.bland_altman`.
    """
    means, differences = (truth_ml + prediction_ml) / 2, prediction_ml - truth_ml
    finite = np.flatnonzero(np.isfinite(differences))
    if not finite.size:
        return ""
    lines = {name: value for name, value in limits.items() if np.isfinite(value)}
    to_x, to_y, frame = _frame(
        means[finite],
        [*differences[finite], *lines.values(), 0],
        "mean of truth and prediction (mL)",
        f"prediction {MINUS} truth (mL)",
    )
    parts = [*frame, _across(to_y(0), "zero")]
    for name, value in lines.items():
        y = to_y(value)
        parts.append(_across(y, "line second" if name == "bias" else "line dashed"))
        parts.append(label(WIDTH - RIGHT + 6, y + 4, number(value, 1)))
    for i in finite.tolist():
        volumes = [number(volume[i], 1) for volume in (truth_ml, prediction_ml)]
        title = f"{names[i]}: truth {volumes[0]} mL, prediction {volumes[1]} mL"
        parts.append(dot(to_x(means[i]), to_y(differences[i]), 4, title))
    return svg(WIDTH, HEIGHT, "Bland-Altman plot of the atrium's volume", parts)


def curve_figure(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    y_label: str,
    marked: float | None,
) -> Html | str:
    """Curves over the training step.

    Args:
        series: name -> (steps, values), at most two; empty ones are left out.
        y_label: what the values are.
        marked: step with a vertical line (of the evaluated checkpoint), or None.
    """
    series = {name: points for name, points in series.items() if len(points[0])}
    if not series:
        return ""
    all_x = [x for xs, _ in series.values() for x in xs]
    all_y = [y for _, ys in series.values() for y in ys]
    to_x, to_y, parts = _frame([0, *all_x], all_y, "training step", y_label)
    if marked is not None and marked <= max(all_x):
        falling = all_y[-1] < (min(all_y) + max(all_y)) / 2  # then there is room above the curves
        parts += _marked_step(marked, to_x(marked), TOP + 16 if falling else HEIGHT - BOTTOM - 8)
    for style, (xs, ys) in zip(CURVES, series.values()):
        points = [(to_x(x), to_y(y)) for x, y in zip(_thin(xs), _thin(ys))]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(stroke(f"M{line}", f"line {style}"))
        if len(points) <= 30:
            parts += [dot(x, y, 2.5, style=f"mark {style}") for x, y in points]
    keys: list[str] = []
    for style, name in zip(CURVES, series):
        keys += ["\N{EM SPACE}"] if keys else []
        keys += [tag("tspan", "\N{BLACK SQUARE}", class_=f"mark {style}"), f" {name}"]
    parts.append(label(WIDTH - RIGHT, TOP - 6, keys, "end"))
    return svg(WIDTH, HEIGHT, f"{y_label} over training steps", parts)


def _marked_step(step: float, x: float, y: float) -> list[Html]:
    """A vertical line at a step, and at the height y what it means, on the side with more room."""
    side, shift = ("end", -5) if x > WIDTH / 2 else ("start", 5)
    line = stroke(f"M{x:.1f} {TOP}V{HEIGHT - BOTTOM}", "line dashed")
    return [line, label(x + shift, y, f"evaluated: step {step:.0f}", side)]


def _thin(values: Sequence[float]) -> list[float]:
    """At most `MOST_POINTS` values: means of neighbours."""
    parts = np.array_split(values, min(len(values), MOST_POINTS))
    return [float(np.mean(part)) for part in parts]


def _frame(
    xs: Iterable[float], ys: Iterable[float], x_label: str, y_label: str
) -> tuple[Callable[[float], float], Callable[[float], float], list[Html]]:
    """Axes around the data: value -> x, value -> y, and their ticks, grid and labels."""
    x_ticks, y_ticks = ticks_around(xs, 0.01), ticks_around(ys, 0.04)
    to_x = scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    to_y = scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = []
    for tick in y_ticks:
        parts.append(_across(to_y(tick), "grid"))
        parts.append(label(LEFT - 8, to_y(tick) + 4, short(tick), "end"))
    parts += [label(to_x(tick), HEIGHT - BOTTOM + 18, short(tick), "middle") for tick in x_ticks]
    parts.append(label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle", "label"))
    turned = f"translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"
    parts.append(tag("text", y_label, class_="label", transform=turned, text_anchor="middle"))
    return to_x, to_y, parts


def ticks_around(values: Iterable[float], margin: float) -> Sequence[float]:
    """Round numbers from below the smallest to above the largest value, by a part of the range."""
    values = list(values)
    low, high = float(min(values)), float(max(values))
    margin = margin * (high - low) or 0.5 * abs(high) or 0.5  # a single value gets room around it
    start = low - margin if low < 0 or low > margin else low
    from matplotlib.ticker import MaxNLocator  # late: `predict` needs no figure, and starts sooner

    return MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(start, high)


def short(tick: float) -> str:
    """What stands beside a tick."""
    return f"{tick:,.6g}".replace("-", MINUS).replace(",", "\N{THIN SPACE}")


def _across(y: float, style: str) -> Html:
    return stroke(f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", style)


def stroke(line: str, style: str) -> Html:
    """A line, in the language of SVG's paths."""
    return tag("path", class_=style, d=line)


def dot(x: float, y: float, radius: float, title: str = "", style: str = "dot") -> Html:
    """A point; its title shows beside the pointer."""
    titled = [tag("title", title)] if title else []
    return tag("circle", titled, class_=style, cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius)


def scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """The function that takes low to start and high to stop."""
    return lambda value: start + (value - low) / (high - low) * (stop - start)
