"""benchmarks.common.timing: sides in turn, and what is reported of them."""

import time

import pytest

from benchmarks.common.timing import Deadline, Rows, in_turn, summary


def test_rounds_alternate():
    order = []

    def side(name, seconds):
        def measure(calls):
            order.append((name, calls))
            return [seconds] * calls

        return measure

    found = in_turn({"a": side("a", 1.0), "b": side("b", 0.1)}, rounds=2, seconds=0.5)
    assert order == [("a", 1), ("b", 1), ("a", 1), ("b", 5)]
    assert summary(found["b"])["count"] == 6
    assert summary([[3.0], [1.0, 2.0]])["median"] == 2


def test_rows_are_prepared_measured_and_forgotten():
    calls = []
    rows = Rows(lambda row, mode: (lambda: calls.append((row, mode)), {"fact": 1}))
    facts = rows.commands["prepare"](row="encoder", mode="eager")
    assert facts["fact"] == 1 and facts["first_seconds"] >= 0
    assert len(rows.commands["measure"](mode="eager", calls=3, row="encoder")) == 3
    assert calls == [("encoder", "eager")] * 5  # the first, one that wakes, and three
    rows.commands["forget"](row="encoder", mode="eager")
    with pytest.raises(KeyError):
        rows.commands["measure"](row="encoder", mode="eager", calls=1)


def test_what_went_before_counts():
    deadline = Deadline(2, since=time.monotonic() - 60)
    assert 50 < deadline.left() <= 60 and Deadline(1, since=time.monotonic() - 90).left() == 0
