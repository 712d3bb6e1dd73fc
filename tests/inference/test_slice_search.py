"""slice_search: nothing that matters is left out, and what cannot matter is."""

import numpy as np
import pytest

from lagseg_jax.imaging.masks import clean_mask
from lagseg_jax.inference.slice_search import largest_is_seen, search


def longest_run(shows):
    """The most Trues in a row in shows (Z,)."""
    bounds = np.flatnonzero(np.diff(np.concatenate([[False], shows, [False]])))
    return int((bounds[1::2] - bounds[::2]).max(initial=0))


def searched(truth, stride, batch=1, enough=True):
    """Runs the search on a volume whose answer is known: the slices of every call, the outcome."""
    rounds = []

    def look(numbers):
        rounds.append(numbers.tolist())
        return truth[numbers]

    return rounds, search(look, len(truth), stride, batch, lambda: enough)


def looked_at(truth, stride, batch=1, enough=True):
    """The numbers of the slices in the order in which they were looked at, and the outcome."""
    rounds, shows = searched(truth, stride, batch, enough)
    order = [number for numbers in rounds for number in numbers]
    assert len(order) == len(set(order)), "a slice was looked at twice"
    np.testing.assert_array_equal(shows[order], truth[order])
    assert not np.delete(shows, order).any()
    return order, shows


@pytest.mark.parametrize("batch", [1, 5, 32])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7, 200])
def test_every_run_that_can_matter_is_found_whole(stride, batch):
    rng = np.random.default_rng(stride)
    for _ in range(300):
        truth = np.zeros(rng.integers(1, 90), bool)
        for _ in range(rng.integers(0, 4)):
            start, length = rng.integers(len(truth)), rng.integers(1, 30)
            truth[start : start + length] = True
        _, shows = looked_at(truth, stride, batch)
        missed = truth & ~shows
        assert longest_run(missed) < stride
        # A run is seen as a whole or not at all.
        steps = np.flatnonzero(np.diff(missed.astype(int)))
        assert not any(shows[[s, s + 1]].any() for s in steps)
        assert len(looked_at(truth, stride, batch, enough=False)[0]) == len(truth)


def test_slices_far_from_the_atrium_are_left_out():
    truth = np.zeros(88, bool)
    truth[30:60] = True
    order, _ = looked_at(truth, 4)
    assert order[:22] == list(range(2, 88, 4))
    assert 40 < len(order) < 56
    assert len(looked_at(truth, 1)[0]) == 88


def test_the_first_batches_are_full():
    """22 slices leave room for 2 in the last of 6 batches of 4: those in the middle."""
    numbers = searched(np.zeros(88, bool), 4, 4)[0][0]
    assert numbers == sorted([*range(2, 88, 4), 43, 44])
    assert searched(np.zeros(5, bool), 4, 8)[0] == [[0, 1, 2, 3, 4]]


def test_the_rounds_by_hand():
    """17 slices in steps of 4: every fourth, then the gaps beside the atrium, then the rest."""
    truth = np.zeros(17, bool)
    truth[5:8] = True
    first, around = [2, 6, 10, 14], [3, 4, 5, 7, 8, 9]
    rest = [0, 1, 11, 12, 13, 15, 16]
    assert searched(truth, 4)[0] == [first, around]
    assert searched(truth, 4, enough=False)[0] == [first, around, rest]
    truth[3:11] = True
    assert searched(truth, 4)[0] == [first, [*around, 11, 12, 13]]
    nothing = np.zeros(17, bool)
    assert searched(nothing, 4, enough=False)[0] == [first, sorted(around + rest)]
    assert searched(truth, 1)[0] == [list(range(17))]


def test_the_largest_component_is_that_of_the_whole_volume():
    """A blob, an islet near it, and specks of one or two slices elsewhere."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        mask = np.zeros((20, 21, 40), np.uint8)
        start = rng.integers(0, 26)
        mask[5:12, 6:14, start : start + rng.integers(8, 14)] = 1
        for _ in range(4):
            x, y, z = rng.integers(0, 20), rng.integers(0, 21), rng.integers(0, 40)
            mask[x : x + 2, y : y + 2, z : z + 2] = 1
        _, shows = looked_at(mask.any(axis=(0, 1)), 4)
        seen = mask * shows
        expected = clean_mask(mask, (1, 1, 1), 1)
        np.testing.assert_array_equal(clean_mask(seen, (1, 1, 1), 1), expected)


def test_a_flat_atrium_beside_a_tall_vessel_is_not_left_out():
    """12 mL in 3 slices, between two that are looked at; a vessel of 1.25 mL through 20 others."""
    spacing, mask = (2.5, 5.0, 5.0), np.zeros((40, 30, 30), np.uint8)  # (Z, H, W)
    mask[11:14, 8:16, 6:14] = 1
    mask[18:38, 2, 2] = 1
    seen = np.zeros_like(mask)

    def look(numbers):
        seen[numbers] = mask[numbers]
        return mask[numbers].any(axis=(1, 2))

    search(look, len(mask), 4, 1, lambda: largest_is_seen(seen, spacing, 4))
    np.testing.assert_array_equal(seen, mask)


@pytest.mark.parametrize(("stride", "voxels"), [(4, 720), (2, 240), (1, 0)])
def test_how_large_a_component_is_enough_by_hand(stride, voxels):
    """60 cm2 times the distance of the slices looked at, in voxels of 62.5 mm3; two do not add."""
    spacing, one = (2.5, 5.0, 5.0), np.zeros((20, 60), np.uint8)
    one.ravel()[:voxels] = 1
    two = np.stack([one, 0 * one, one])
    assert largest_is_seen(two, spacing, stride)
    two.ravel()[np.flatnonzero(two)[::voxels] if voxels else []] = 0
    assert largest_is_seen(two, spacing, stride) == (not voxels)
