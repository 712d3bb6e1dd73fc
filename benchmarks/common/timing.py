"""Times calls: one side's, several sides' in turn, and the rows that a worker has prepared."""

import statistics
import time
from collections.abc import Callable

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LONG = 1.0  # seconds
MOST_CALLS = 10  # per round
MOST_ROUNDS_WORTH = 20


class Deadline:
    """How long this run may still take.

    Args:
        minutes: from `since` on.
        since: by the monotonic clock; None: now.
    """

    def __init__(self, minutes: float, since: float | None = None):
        self.minutes = minutes
        self._end = (time.monotonic() if since is None else since) + 60 * minutes

    def left(self) -> float:
        """Seconds; never negative."""
        return max(0.0, self._end - time.monotonic())

    def patience(self) -> float:
        """Seconds to wait for what is started now."""
        return 30 + self.left()


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call, which waits for its own result."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(call: Callable[[], object], calls: int) -> list[float]:
    """Seconds of each call; one more goes before them to wake the device and its threads."""
    first = timed(call)
    # A call of seconds needs no waking.
    return [first] if calls == 1 and first > LONG else [timed(call) for _ in range(calls)]


def in_turn(
    sides: dict[str, Callable[[int], list[float]]], rounds: int, seconds: float
) -> dict[str, list[list[float]]]:
    """Rounds A B C A B C: what drifts on a shared machine drifts for all of them.

    No round begins after `MOST_ROUNDS_WORTH` times `seconds`: calls of many seconds need fewer.

    Args:
        sides: name -> function of the number of calls, which returns the seconds of each.
        rounds: how many.
        seconds: that one side's round may take; at least one call is made.

    Returns:
        Timings by side and round.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in sides}
    start = time.monotonic()
    for number in range(rounds):
        if number and time.monotonic() - start > MOST_ROUNDS_WORTH * max(1.0, seconds):
            break
        for name, side in sides.items():
            calls = int(seconds / summary(found[name])["median"]) if number else 1
            found[name].append(side(min(MOST_CALLS, max(1, calls))))
    return found


def summary(rounds: list[list[float]]) -> dict:
    """Median, least and most of all calls, and the seconds of each round."""
    seconds = [s for part in rounds for s in part]
    return {
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "count": len(seconds),
        "rounds": [[round(s, 6) for s in part] for part in rounds],
    }


class Rows:
    """The rows of a worker that are prepared, and its commands for them (see worker.py).

    Args:
        make: given the row's name and what else the coordinator says of it, returns a call that
            waits for its own result, and facts about it.
    """

    def __init__(self, make: Callable[..., tuple[Callable[[], object], dict]]):
        self._make = make
        self._prepared: dict[frozenset, Callable[[], object]] = {}
        self.commands = {"prepare": self.prepare, "measure": self.measure, "forget": self.forget}

    def prepare(self, **row: str) -> dict:
        """Compiles and warms up; the first call's time (s) and the facts."""
        call, facts = self._make(**row)
        self._prepared[frozenset(row.items())] = call
        return {"first_seconds": timed(call)} | facts

    def measure(self, calls: int, **row: str) -> list[float]:
        """Seconds of each call."""
        return measure(self._prepared[frozenset(row.items())], calls)

    def forget(self, **row: str) -> None:
        """Frees what the row holds."""
        del self._prepared[frozenset(row.items())]
