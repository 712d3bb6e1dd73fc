"""Draws the fusion weights as a heat map, and says which blocks take part."""

from collections.abc import Sequence

import numpy as np

from lagseg_jax.reports.figures import label, number, svg
from lagseg_jax.reports.html import SPACE, Html, tag

ROW, LABELS, TOTALS, TOP, BOTTOM = 34, 56, 110, 46, 46  # heights and widths around the cells
WIDTH = 960
KEY = {0.25: "\N{VULGAR FRACTION ONE QUARTER}", 0.5: "\N{VULGAR FRACTION ONE HALF}"}
KEY |= {1.0: "1", 2.0: "2", 4.0: "4"}


def effective_blocks(weights: np.ndarray) -> np.ndarray:
    """Weights (S, L) with rows that sum to 1 -> exp(entropy) of each row, (S,).

    The number of blocks that equal shares would need for the same entropy: 1 if one block has all
    the weight, L if all have the same (Hill number of order 1; Hill 1973).
    """
    logs = np.log(np.where(weights > 0, weights, 1.0))
    return np.exp(-(weights * logs).sum(axis=1))


def heat_map(weights: np.ndarray, scales: Sequence[str]) -> Html:
    """Scales downwards, blocks to the right, shares in percent; a point for blocks left out.

    Args:
        weights: (S, L), rows sum to 1.
        scales: names of the rows, coarsest first.
    """
    count = weights.shape[1]
    cell = (WIDTH - LABELS - TOTALS) / count
    parts = _key()
    for row, (scale, shares) in enumerate(zip(scales, weights)):
        baseline = TOP + (row + 0.5) * ROW + 5
        parts.append(label(LABELS - 10, baseline, scale, "end"))
        parts += _row(shares, weights.any(axis=0).sum(), cell, TOP + row * ROW, scale)
        total = number(effective_blocks(shares[None])[0], 1)
        parts.append(label(WIDTH - 6, baseline, total, "end"))
    height = TOP + len(scales) * ROW
    parts.append(label(LABELS - 10, TOP - 8, "scale", "end", "label"))
    parts.append(label(WIDTH - 6, TOP - 8, "effective blocks", "end", "label"))
    for block in range(0, count, 1 if count <= 24 else 4):
        parts.append(label(LABELS + (block + 0.5) * cell, height + 18, str(block), "middle"))
    below = "encoder block (0 is nearest to the image); share of the scale in %"
    parts.append(label((LABELS + WIDTH - TOTALS) / 2, height + 40, below, "middle", "label"))
    return svg(WIDTH, height + BOTTOM, "Fusion weights by scale and block", parts, style="wide")


def _row(shares: np.ndarray, used: int, cell: float, y: float, scale: str) -> list[Html]:
    """The cells of one scale, `cell` wide, with their upper edge at y; `used` blocks take part."""
    parts = []
    for block, share in enumerate(shares):
        x = LABELS + block * cell
        text, style = "\N{MIDDLE DOT}", None
        if share > 0:
            title = f"scale {scale}, block {block}: {100 * share:.2f} %"
            parts.append(_cell(x + 1, y + 1, cell - 2, ROW - 2, share * used, title))
            style = "on" if _strength(share * used) > 0.65 else None
            text = number(100 * share, 1 if cell > 44 else 0)
        parts.append(label(x + cell / 2, y + ROW / 2 + 5, text, "middle", style))
    return parts


def _strength(ratio: float) -> float:
    """Share / equal share -> 0 (a quarter or less) .. 0.5 (equal) .. 1 (four times or more)."""
    return float(np.clip(0.5 + np.log2(ratio) / 4, 0, 1))


def _cell(x: float, y: float, width: float, height: float, ratio: float, title: str) -> Html:
    return tag(
        "rect",
        tag("title", title),
        class_="cell",
        x=f"{x:.2f}",
        y=f"{y:g}",
        width=f"{width:.2f}",
        height=f"{height:g}",
        fill_opacity=f"{_strength(ratio):.3f}",
    )


def _key() -> list[Html]:
    """What the colours say, above the cells."""
    parts = [label(LABELS, TOP - 26, "times an equal share:", "start", "label")]
    for place, (ratio, text) in enumerate(KEY.items()):
        x = LABELS + 156 + 62 * place
        parts.append(_cell(x, TOP - 38, 22, 15, ratio, text))
        parts.append(label(x + 28, TOP - 26, text, "start", "label"))
    return parts


def fusion_facts(weights: np.ndarray, scales: Sequence[str], learned: bool) -> str:
    """Which blocks take part, and which has most of each scale.

    Args:
        weights: (S, L), rows sum to 1.
        scales: names of the rows, coarsest first.
        learned: False if the weights were fixed to equal shares (`config.fusion.learned`).
    """
    used, depth = np.flatnonzero(weights.any(axis=0)), weights.shape[1]
    if used.size == 1:
        return f"Only block {used[0]} of {depth} takes part, so there is nothing to weigh."
    taking_part = f"All {depth} blocks take part"
    if used.size < depth:
        taking_part = f"{used.size} of {depth} blocks take part ({', '.join(map(str, used))})"
    equal = f"an equal share is {100 / used.size:.1f}{SPACE}%"
    if not learned:
        return f"{taking_part}, with equal shares that were fixed, not learned; {equal}."
    largest = [
        f"block {row.argmax()} at {scale} ({number(100 * row.max(), 1)}{SPACE}%)"
        for scale, row in zip(scales, weights)
    ]
    return f"{taking_part}. The largest share has {', '.join(largest)}; {equal}."
