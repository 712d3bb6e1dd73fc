"""Computes the batches of a volume so that the devices always have work."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np


def computed(
    start: Callable[[np.ndarray], jax.Array], batches: Sequence[np.ndarray], at_once: int
) -> Iterator[np.ndarray]:
    """What the devices make of each batch, in their order.

    Args:
        start: what the devices are computing of the slices of these numbers.
        batches: numbers of slices.
        at_once: batches that are computed at the same time; 1: one after the other, each started
            before the last one is waited for.
    """
    first, others = start(batches[0]), batches[1:]  # alone: with it all is compiled
    if at_once == 1:
        for batch in others:
            following = start(batch)
            yield np.asarray(first)
            first = following
        yield np.asarray(first)
        return
    with ThreadPoolExecutor(at_once) as pool:
        outputs = pool.map(lambda batch: np.asarray(start(batch)), others)
        yield np.asarray(first)
        yield from outputs
