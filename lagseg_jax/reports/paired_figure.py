"""Draws the Dice of the same cases under several tools, each case joined from tool to tool."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lagseg_jax.reports.figures import dot, label, number, scale, short, stroke, svg, ticks_around
from lagseg_jax.reports.html import Html

ROW, LABELS, WIDTH, TOP, BOTTOM, RIGHT = 44, 210, 960, 14, 46, 70
LONGEST = 26  # letters of a name


def paired_figure(columns: Mapping[str, np.ndarray], names: Sequence[str]) -> Html | str:
    """A row for each tool with a dot for each case; its mean is marked and written beside it.

    Args:
        columns: tool -> Dice (cases,), NaN where there is none.
        names: of the cases.
    """
    every = np.concatenate([np.asarray(values, float) for values in columns.values()])
    finite = every[np.isfinite(every)]
    if not finite.size:
        return ""
    ticks = ticks_around(finite, 0.03)
    to_x = scale(ticks[0], ticks[-1], LABELS, WIDTH - RIGHT)
    bottom = TOP + ROW * len(columns)
    rows = {tool: TOP + ROW * (place + 0.5) for place, tool in enumerate(columns)}
    parts = [stroke(f"M{to_x(tick):.1f} {TOP}V{bottom}", "grid") for tick in ticks]
    parts += [label(to_x(tick), bottom + 18, short(tick), "middle") for tick in ticks]
    parts.append(label((LABELS + WIDTH - RIGHT) / 2, bottom + 38, "Dice", "middle", "label"))
    for case in range(len(names)):
        points = [(to_x(v[case]), rows[t]) for t, v in columns.items() if math.isfinite(v[case])]
        if len(points) > 1:
            parts.append(stroke("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), "pair"))
    for tool, values in columns.items():
        y = rows[tool]
        text = tool if len(tool) <= LONGEST else f"{tool[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
        parts.append(label(LABELS - 14, y + 4, text, "end"))
        for case in np.flatnonzero(np.isfinite(values)).tolist():
            title = f"{names[case]}, {tool}: {number(values[case], 3)}"
            parts.append(dot(to_x(values[case]), y, 4, title))
        if np.isfinite(values).any():
            mean = float(np.nanmean(values))
            parts.append(stroke(f"M{to_x(mean):.1f} {y - 13:.1f}v26", "line second"))
            parts.append(label(WIDTH - RIGHT + 12, y + 4, number(mean, 3)))
    return svg(WIDTH, bottom + BOTTOM, "Dice of every case under every tool", parts)
