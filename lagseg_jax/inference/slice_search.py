"""slices looked at so far -> the ones to look at next: the atrium's, without all the others.

The slices of one connected component follow each other. So every `stride`-th slice is looked at
first, with some from the middle where the last batch has room, and then all slices of the gaps that
have atrium at an end: after that, every slice beside one with atrium has been seen, and of a
component that reaches a first slice nothing is missing.
A component that reaches none spans fewer than `stride` slices, and can only matter where it would
be the largest: twice as many slices in a row must show atrium, or everything is looked at.
"""

from collections.abc import Iterator

import numpy as np


def search(shows: np.ndarray, stride: int, batch: int = 1) -> Iterator[np.ndarray]:
    """Yields numbers of slices to look at, until the rest cannot matter.

    Args:
        shows: (Z,) bool, which slices have atrium; False until looked at. The caller fills in
            what was found before it asks for more.
        stride: 1 looks at all of them at once.
        batch: slices that are computed at a time.
    """
    count = len(shows)
    first = _fill_up(np.arange(min(stride // 2, count - 1), count, stride), count, batch)
    seen = np.zeros(count, bool)

    def unseen(numbers: np.ndarray) -> np.ndarray:
        numbers = numbers[~seen[numbers]]
        seen[numbers] = True
        return numbers

    yield unseen(first)
    edges = [-1, *first, count]
    showing = [False, *shows[first], False]
    gaps = [
        np.arange(edges[i] + 1, edges[i + 1])
        for i in range(len(edges) - 1)
        if showing[i] or showing[i + 1]
    ]
    if gaps and (around := unseen(np.concatenate(gaps))).size:
        yield around
    if longest_run(shows) < 2 * stride and not seen.all():
        yield unseen(np.arange(count))


def _fill_up(first: np.ndarray, count: int, batch: int) -> np.ndarray:
    """With as many more slices, nearest to the middle, as the last batch of these has room for."""
    by_distance = np.argsort(np.abs(np.arange(count) - (count - 1) / 2), kind="stable")
    others = by_distance[~np.isin(by_distance, first)]
    return np.sort(np.concatenate([first, others[: -len(first) % batch]]))


def longest_run(shows: np.ndarray) -> int:
    """The most Trues in a row in shows (Z,)."""
    bounds = np.flatnonzero(np.diff(np.concatenate([[False], shows, [False]])))
    return int((bounds[1::2] - bounds[::2]).max(initial=0))
