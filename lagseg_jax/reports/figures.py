"""numbers -> figures as SVG text that takes its colours from the page around it.

Classes instead of colours (`dot`, `line first`, ...): the report's style sheet gives them the
colours of the light, the dark and the printed page.
"""

from collections.abc import Callable, Sequence
from html import escape

import numpy as np
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 480, 300  # of a figure, in its own units; text is 13 high
LEFT, RIGHT, TOP, BOTTOM = 58, 44, 18, 46  # around the area with the data
MOST_POINTS = 400  # of a curve
CURVES = ("first", "second")  # their classes
GOLDEN = 0.618034  # multiples of it, modulo 1, spread evenly: dots of one value stay apart


def number(value: float, digits: int) -> str:
    """A number in HTML: with a true minus sign, and a dash where there is none."""
    if not np.isfinite(value):
        return "&ndash;"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "&minus;")


def strip(
    values: np.ndarray, names: Sequence[str], interval: tuple[float, float], digits: int
) -> str:
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
    to_x = _scale(low, high, 5, 175) if high > low else lambda value: 90.0
    dots = "".join(
        f'<circle class="dot" cx="{to_x(values[i]):.1f}" cy="{8 + 20 * (i * GOLDEN % 1):.1f}" '
        f'r="3"><title>{escape(names[i])}: {number(values[i], digits)}</title></circle>'
        for i in finite.tolist()
    )
    mean = to_x(values[finite].mean())
    below = f'<path class="line mean" d="M{mean:.1f} 33v10"/>'
    if np.isfinite(interval).all():
        start, stop = map(to_x, interval)
        below += f'<path class="line second" d="M{start:.1f} 38H{stop:.1f}"/>'
    below += f'<text x="0" y="60">{number(low, digits)}</text>'
    if high > low:
        below += f'<text x="180" y="60" text-anchor="end">{number(high, digits)}</text>'
    return _svg(180, 64, "one dot for each case, the mean below them", dots + below)


def bland_altman_figure(
    truth_ml: np.ndarray, prediction_ml: np.ndarray, names: Sequence[str], limits: dict[str, float]
) -> str:
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
        "prediction &minus; truth (mL)",
    )
    parts = [frame, _across(to_y(0), "zero")]
    for name, value in lines.items():
        y = to_y(value)
        parts.append(_across(y, "line second" if name == "bias" else "line dashed"))
        parts.append(f'<text x="{WIDTH - RIGHT + 6}" y="{y + 4:.1f}">{number(value, 1)}</text>')
    parts += [
        f'<circle class="dot" cx="{to_x(means[i]):.1f}" cy="{to_y(differences[i]):.1f}" r="4">'
        f"<title>{escape(names[i])}: truth {number(truth_ml[i], 1)} mL, prediction "
        f"{number(prediction_ml[i], 1)} mL</title></circle>"
        for i in finite.tolist()
    ]
    return _svg(WIDTH, HEIGHT, "Bland-Altman plot of the atrium's volume", "".join(parts))


def curve_figure(
    series: dict[str, tuple[Sequence[float], Sequence[float]]], y_label: str, marked: float | None
) -> str:
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
    to_x, to_y, frame = _frame([0, *all_x], all_y, "training step", y_label)
    parts = [frame]
    if marked is not None and marked <= max(all_x):
        x = to_x(marked)
        side, shift = ("end", -5) if x > WIDTH / 2 else ("start", 5)
        falling = all_y[-1] < (min(all_y) + max(all_y)) / 2  # then there is room above the curves
        y = TOP + 16 if falling else HEIGHT - BOTTOM - 8
        parts.append(f'<path class="line dashed" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{x + shift:.1f}" y="{y}" text-anchor="{side}">'
            f"evaluated: step {marked:.0f}</text>"
        )
    for style, (xs, ys) in zip(CURVES, series.values()):
        points = [f"{to_x(x):.1f} {to_y(y):.1f}" for x, y in zip(_thin(xs), _thin(ys))]
        parts.append(f'<path class="line {style}" d="M{"L".join(points)}"/>')
        if len(points) <= 30:
            marks = (point.split() for point in points)
            parts += [f'<circle class="mark {style}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in marks]
    keys = "&emsp;".join(
        f'<tspan class="mark {style}">&#9632;</tspan> {escape(name)}'
        for style, name in zip(CURVES, series)
    )
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{TOP - 6}" text-anchor="end">{keys}</text>')
    return _svg(WIDTH, HEIGHT, f"{y_label} over training steps", "".join(parts))


def _thin(values: Sequence[float]) -> list[float]:
    """At most `MOST_POINTS` values: means of neighbours."""
    parts = np.array_split(values, min(len(values), MOST_POINTS))
    return [float(np.mean(part)) for part in parts]


def _frame(xs, ys, x_label: str, y_label: str) -> tuple[Callable, Callable, str]:
    """Axes around the data: value -> x, value -> y, and their ticks, grid and labels."""
    x_ticks, y_ticks = _ticks(xs, 0.01), _ticks(ys, 0.04)
    to_x = _scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    to_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = []
    for tick in y_ticks:
        y = to_y(tick)
        parts.append(_across(y, "grid"))
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
        )
    for tick in x_ticks:
        x = to_x(tick)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{_short(tick)}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{x_label}</text>'
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="label" transform="translate(14 {middle}) rotate(-90)" '
        f'text-anchor="middle">{y_label}</text>'
    )
    return to_x, to_y, "".join(parts)


def _ticks(values: Sequence[float], margin: float) -> Sequence[float]:
    """Round numbers from below the smallest to above the largest value, by a part of the range."""
    low, high = float(np.min(values)), float(np.max(values))
    margin = margin * (high - low) or 0.5 * abs(high) or 0.5  # a single value gets room around it
    start = low - margin if low < 0 or low > margin else low
    return MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(start, high)


def _short(tick: float) -> str:
    return f"{tick:,.6g}".replace("-", "&minus;").replace(",", "&thinsp;")


def _across(y: float, style: str) -> str:
    return f'<path class="{style}" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (stop - start)


def _svg(width: float, height: float, label: str, content: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        f"{content}</svg>"
    )
