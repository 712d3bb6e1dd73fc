"""What processes tell each other: values, failures, and the step after which all of them stop."""

import itertools
import threading

import numpy as np
import pytest
from jax.experimental import multihost_utils

from lagseg_jax.runtime.channel import GONE, Channel


@pytest.fixture
def channels(monkeypatch):
    """Three processes, played by threads of this one; the devices' broadcast is a variable."""
    invitation, ready = [], threading.Event()

    def broadcast(padded):
        if bytes(padded).strip():
            invitation.append(np.array(padded))
            ready.set()
        assert ready.wait(10)
        return invitation[0]

    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
    made = in_threads(lambda index: Channel(index, 3), range(3))
    yield made
    for channel in made:
        channel.leave()
    for channel in made:
        channel.close()


def in_threads(function, items):
    """The results of one thread for each item; no thread may be left behind."""
    results = {}
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: function(i)}), daemon=True)
        for i in items
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(results) == len(threads), "a process waits for ever"
    return [results[i] for i in items]


def test_values_come_in_order_of_the_processes(channels):
    for meeting in range(3):
        given = [[meeting, index, float("inf")] for index in range(3)]
        gathered = in_threads(lambda i: channels[i].allgather(given[i]), range(3))  # noqa: B023
        assert gathered == [given] * 3


@pytest.mark.parametrize("who", [[0], [2], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("lags", [(0, 0, 0), (0, 2, 1)])
def test_all_stop_after_the_same_step_and_none_before_one_that_another_began(channels, who, lags):
    """Steps of one process may be ahead of another's by what devices have queued."""
    begun = [0, 0, 0]
    moved = threading.Condition()

    def run(index):
        for step in itertools.count(1):
            with moved:  # a step waits for the others, but for as many as may be queued
                begun[index] = step
                moved.notify_all()
                moved.wait_for(lambda s=step: min(begun) >= s - lags[index], 10)
            if channels[index].preempted(step, asked=index in who and step >= 5):
                return step
        return None

    stopped = in_threads(run, range(3))
    assert len(set(stopped)) == 1 and stopped[0] >= 5
    assert max(begun) == stopped[0]


def test_who_asks_before_the_first_step_is_heard(channels):
    assert len(set(in_threads(lambda i: channels[i].preempted(7, i == 1), range(3)))) == 1


def test_nobody_stops_unasked(channels):
    for step in range(1, 20):
        assert not any(channel.preempted(step, False) for channel in channels)


def wait_for_failure(channel):
    with channel.changed:
        assert channel.changed.wait_for(lambda: channel.failures, 10)
    return channel.failures[0]


def test_all_hear_why_one_fails(channels):
    channels[2].fail(2, "/data/x.nii.gz: truncated")
    for channel in channels:
        assert tuple(wait_for_failure(channel)) == (2, 2, "/data/x.nii.gz: truncated")


@pytest.mark.parametrize("gone", [0, 1])
def test_one_that_is_gone_without_a_word_has_failed(channels, gone):
    channels[gone].close()
    for index in {0, 1, 2} - {gone}:
        assert tuple(wait_for_failure(channels[index])) == (gone, 1, GONE)


def test_one_that_left_has_not_failed(channels):
    channels[1].leave()
    channels[1].close()
    with channels[0].changed:
        assert channels[0].changed.wait_for(lambda: 1 in channels[0].left, 10)
        assert not channels[0].changed.wait_for(lambda: channels[0].failures, 0.5)
