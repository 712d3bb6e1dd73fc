"""fusion weights (S, L) -> their heat map, and the sentences that read it."""

from collections.abc import Sequence

import numpy as np

from lagseg_jax.reports.figures import number

ROW, LABELS, TOTALS, TOP, BOTTOM = 34, 56, 110, 46, 46  # heights and widths around the cells
WIDTH = 960
KEY = {0.25: "&frac14;", 0.5: "&frac12;", 1.0: "1", 2.0: "2", 4.0: "4"}


def effective_blocks(weights: np.ndarray) -> np.ndarray:
    """Weights (S, L) with rows that sum to 1 -> exp(entropy) of each row, (S,).

    The number of blocks that equal shares would need for the same entropy: 1 if one block has all
    the weight, L if all have the same (Hill number of order 1; Hill 1973).
    """
    logs = np.log(np.where(weights > 0, weights, 1.0))
    return np.exp(-(weights * logs).sum(axis=1))


def heat_map(weights: np.ndarray, scales: Sequence[str]) -> str:
    """Scales downwards, blocks to the right, shares in percent; 0 for blocks that were left out.

    Args:
        weights: (S, L), rows sum to 1.
        scales: names of the rows, coarsest first.
    """
    count = weights.shape[1]
    equal = 1 / np.count_nonzero(weights.any(axis=0))
    cell = (WIDTH - LABELS - TOTALS) / count
    digits = 1 if cell > 44 else 0
    parts = _key()
    for row, (scale, shares) in enumerate(zip(scales, weights)):
        y = TOP + row * ROW
        parts.append(_text(LABELS - 10, y + ROW / 2 + 5, scale, "end"))
        for block, share in enumerate(shares):
            x = LABELS + block * cell
            if share == 0:
                parts.append(_text(x + cell / 2, y + ROW / 2 + 5, "&middot;", "middle"))
                continue
            title = f"scale {scale}, block {block}: {100 * share:.2f} %"
            parts.append(_cell(x + 1, y + 1, cell - 2, ROW - 2, share / equal, title))
            style = "on" if _strength(share / equal) > 0.65 else ""
            text = number(100 * share, digits)
            parts.append(_text(x + cell / 2, y + ROW / 2 + 5, text, "middle", style))
        total = number(effective_blocks(shares[None])[0], 1)
        parts.append(_text(WIDTH - 6, y + ROW / 2 + 5, total, "end"))
    height = TOP + len(scales) * ROW
    parts.append(_text(LABELS - 10, TOP - 8, "scale", "end", "label"))
    parts.append(_text(WIDTH - 6, TOP - 8, "effective blocks", "end", "label"))
    for block in range(0, count, 1 if count <= 24 else 4):
        parts.append(_text(LABELS + (block + 0.5) * cell, height + 18, str(block), "middle"))
    middle = (LABELS + WIDTH - TOTALS) / 2
    label = "encoder block (0 is nearest to the image); share of the scale in %"
    parts.append(_text(middle, height + 40, label, "middle", "label"))
    return (
        f'<svg class="wide" viewBox="0 0 {WIDTH} {height + BOTTOM}" role="img" '
        f'aria-label="Fusion weights by scale and block">{"".join(parts)}</svg>'
    )


def _strength(ratio: float) -> float:
    """Share / equal share -> 0 (a quarter or less) .. 0.5 (equal) .. 1 (four times or more)."""
    return float(np.clip(0.5 + np.log2(ratio) / 4, 0, 1))


def _cell(x: float, y: float, width: float, height: float, ratio: float, title: str) -> str:
    return (
        f'<rect class="cell" x="{x:.2f}" y="{y:g}" width="{width:.2f}" height="{height:g}" '
        f'fill-opacity="{_strength(ratio):.3f}"><title>{title}</title></rect>'
    )


def _key() -> list[str]:
    """What the colours say, above the cells."""
    parts = [_text(LABELS, TOP - 26, "times an equal share:", "start", "label")]
    for place, (ratio, text) in enumerate(KEY.items()):
        x = LABELS + 156 + 62 * place
        parts.append(_cell(x, TOP - 38, 22, 15, ratio, text))
        parts.append(_text(x + 28, TOP - 26, text, "start", "label"))
    return parts


def read_in_words(weights: np.ndarray, scales: Sequence[str], learned: bool) -> str:
    """What the heat map says, computed from the weights, in a few sentences.

    Args:
        weights: (S, L), rows sum to 1.
        scales: names of the rows, coarsest first.
        learned: False if the weights were fixed to equal shares (`config.fusion.learned`).
    """
    used = np.flatnonzero(weights.any(axis=0))
    count, depth = used.size, weights.shape[1]
    if count == 1:
        return f"Only block {used[0]} of {depth} takes part, so there is nothing to weigh."
    taking_part = f"{'All' if count == depth else count} {depth} blocks take part"
    if count < depth:
        taking_part = f"{count} of {depth} blocks take part ({', '.join(map(str, used))})"
    if not learned:
        return f"{taking_part}, with equal shares that were fixed, not learned."
    equal = f"{100 / count:.1f}"
    effective = effective_blocks(weights)
    part = effective.min() / count
    entropy = f"by their entropy they count as {_range(effective)} of {count} blocks"
    if part > 0.98:
        shares = _range(100 * weights[:, used])
        return (
            f"{taking_part}; their weights stayed close to equal shares: {shares}&nbsp;%, where an "
            f"equal share is {equal}&nbsp;%; {entropy}."
        )
    how = "a few that dominate"
    if part > 0.3:
        how = f"{'clearly' if part < 0.7 else 'moderately'} uneven weights"
    halves = []
    for scale, shares in zip(scales, weights):
        leader = shares.argmax()
        lead = f"{leader} leads with {number(100 * shares[leader], 1)}&nbsp;%"
        halves.append(f"in {_blocks(_half(shares))} at {scale} ({lead})")
    depths = weights @ np.arange(depth)
    mean = f"the mean block is {depths[0]:.1f} at {scales[0]} and {depths[-1]:.1f} at {scales[-1]}"
    order = "Coarse and fine scales read about the same depth"
    if abs(depths[0] - depths[-1]) > 0.05 * count:
        deeper = "deeper" if depths[0] > depths[-1] else "earlier"
        order = f"The coarsest scale reads {deeper} blocks than the finest"
    return (
        f"{taking_part}, with {how}: {entropy}, depending on the scale. Half of the weight lies "
        f"{', '.join(halves)}; an equal share is {equal}&nbsp;%. {order}: {mean}."
    )


def _half(shares: np.ndarray) -> np.ndarray:
    """Shares (L,) -> the fewest blocks that have half of them together, in order."""
    ranked = np.argsort(-shares, kind="stable")
    enough = np.searchsorted(np.cumsum(shares[ranked]), 0.5 * shares.sum() - 1e-9) + 1
    return np.sort(ranked[:enough])


def _blocks(numbers: np.ndarray) -> str:
    """Sorted numbers in words: block 3, or blocks 1, 4-6."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    texts = [str(run[0]) if run.size == 1 else f"{run[0]}&#8209;{run[-1]}" for run in runs]
    return f"block{'s' * (numbers.size > 1)} {', '.join(texts)}"


def _range(values: np.ndarray) -> str:
    low, high = number(values.min(), 1), number(values.max(), 1)
    return low if low == high else f"{low} to {high}"


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    style = f' class="{style}"' if style else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
