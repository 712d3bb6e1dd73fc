"""Batches that are computed at the same time come back in order, and no failure is lost."""

import threading
import time

import numpy as np
import pytest

from lagseg_jax.inference.batches_at_once import computed

BATCHES = [np.arange(i, i + 3) for i in range(0, 21, 3)]


class Device:
    """Doubles numbers, the first ones slowest; knows how many batches it had at a time."""

    def __init__(self, fails=None):
        self.fails, self.now, self.most, self.started = fails, 0, 0, []
        self.lock = threading.Lock()

    def __call__(self, numbers):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.started.append(numbers[0])
        time.sleep(0.02 if numbers[0] % 2 else 0.05)
        with self.lock:
            self.now -= 1
        if numbers[0] == self.fails:
            raise MemoryError
        return 2 * numbers


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_all_come_in_order(at_once, count):
    device = Device()
    found = list(computed(device, BATCHES[:count], at_once))
    np.testing.assert_array_equal(found, 2 * np.stack(BATCHES[:count]))
    assert device.most == max(1, min(at_once, count - 1))  # the first one alone: it compiles
    assert sorted(device.started) == [batch[0] for batch in BATCHES[:count]]


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("fails", [0, 9, 18])
def test_what_fails_in_a_thread_fails_here(at_once, fails):
    device = Device(fails)
    with pytest.raises(MemoryError):
        list(computed(device, BATCHES, at_once))
    assert device.now == 0  # nothing goes on
