"""workers that wait for each other -> timings in turn, and what is reported of them."""

import statistics
import time
from collections.abc import Callable

MOST_CALLS = 10  # per round
MOST_ROUNDS_WORTH = 20


class Deadline:
    """How long this run may still take.

    Args:
        minutes: from now on.
    """

    def __init__(self, minutes: float):
        self.minutes = minutes
        self._end = time.monotonic() + 60 * minutes

    def left(self) -> float:
        """Seconds; never negative."""
        return max(0.0, self._end - time.monotonic())


def in_turn(
    sides: dict[str, Callable[[int], list[float]]], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Rounds A B C A B C: what drifts on a shared machine drifts for all of them.

    No round begins after `MOST_ROUNDS_WORTH` times `seconds`: calls of many seconds need fewer.

    Args:
        sides: name -> function of the number of calls, which returns the seconds of each.
        rounds: how many.
        seconds: that one side's round may take; at least one call is made.

    Returns:
        All timings by side.
    """
    found = {name: [] for name in sides}
    start = time.monotonic()
    for number in range(rounds):
        if number and time.monotonic() - start > MOST_ROUNDS_WORTH * max(1.0, seconds):
            break
        for name, measure in sides.items():
            calls = 1
            if found[name]:
                calls = int(seconds / statistics.median(found[name]))
            found[name] += measure(min(MOST_CALLS, max(1, calls)))
    return found


def summary(seconds: list[float]) -> dict:
    """Median, least and most, and all of them."""
    return {
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "count": len(seconds),
        "all": [round(s, 6) for s in seconds],
    }
