"""Grey values are scaled by percentiles of what was measured, however much padding is around it."""

import itertools

import numpy as np
import pytest

from lagseg_jax.imaging.grey_values import grey_range, normalise, padding_values
from lagseg_jax.imaging.slices import network_images
from lagseg_jax.runtime.errors import InputError

PERCENTILES = (0.5, 99.5)


def test_percentiles_become_0_and_1():
    slices = np.arange(101, dtype=np.int16).reshape(1, 1, 101)  # no line of one value
    grey = grey_range(slices, (10, 90))
    assert grey == (10, 90)
    scaled = normalise(slices, grey)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[0, 0, [0, 10, 30, 50, 90, 100]], [0, 0, 0.25, 0.5, 1, 1])


@pytest.mark.parametrize("value", [0, -7, 300, 10**9])
def test_a_constant_volume_is_black(value):
    slices = np.full((2, 5, 7), value, np.int32)
    low, high = np.float32(grey_range(slices, (0.5, 99.5)))
    assert high > low  # in float32 too, in which the device divides by the difference
    np.testing.assert_array_equal(network_images(slices, 14, (0.5, 99.5)), 0)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("percentiles", [(0.5, 99.5), (0, 100), (30, 70), (50.1, 99)])
def test_grey_range_is_numpys_percentile(dtype, percentiles):
    """Found slice by slice, for any number of slices and with equal values."""
    generator = np.random.default_rng(0)
    for shape in ((1, 1, 2), (1, 12, 9), (3, 5, 7), (41, 5, 3)):
        slices = generator.normal(100, 40, shape).clip(0, 255).astype(dtype)
        expected = np.percentile(slices, percentiles)
        if expected[1] > expected[0]:
            np.testing.assert_allclose(grey_range(slices, percentiles), expected, rtol=1e-6)


@pytest.fixture
def scan():
    """Grey values 40..255 inside, so that none of them is that of a margin."""
    return np.random.default_rng(0).integers(40, 256, (11, 23, 19)).astype(np.uint8)


@pytest.mark.parametrize("value", [0, 17, 255])
@pytest.mark.parametrize(
    "margins",
    [
        ((0, 0), (30, 31), (17, 8)),  # around the slices: 90 %
        ((0, 0), (0, 0), (0, 40)),  # on one side only
        ((0, 0), (9, 0), (0, 0)),
        ((8, 0), (0, 0), (0, 0)),  # empty slices
        ((2, 3), (5, 7), (11, 13)),
    ],
)
def test_a_margin_changes_nothing(scan, value, margins):
    scan[scan == 255] = 254
    expected = tuple(np.percentile(scan, PERCENTILES))
    assert grey_range(scan, PERCENTILES) == expected
    padded = np.pad(scan, margins, constant_values=value)
    assert padding_values(padded) == [value]
    assert grey_range(padded, PERCENTILES) == expected
    assert grey_range(padded.astype(np.float32) - 1000, PERCENTILES) == pytest.approx(
        np.subtract(expected, 1000)
    )


def test_two_values_of_padding(scan):
    """Resampling into a larger field fills with one value what the scanner had filled with one."""
    scan[scan == 255] = 254
    padded = np.pad(
        np.pad(scan, 9, constant_values=0),
        ((0, 0), (0, 9), (0, 0)),
        "constant",
        constant_values=255,
    )
    assert padding_values(padded).tolist() == [0, 255]
    assert grey_range(padded, PERCENTILES) == tuple(np.percentile(scan, PERCENTILES))


def test_corners_of_a_turned_field_of_view_are_padding(scan):
    y, x = np.indices((41, 41)) - 20
    inside = np.abs(y) + np.abs(x) < 20
    scan = np.random.default_rng(0).integers(40, 256, (11, 41, 41)).astype(np.int16)
    padded = np.where(inside, scan, -1)
    expected = np.percentile(scan[:, inside], PERCENTILES)
    np.testing.assert_allclose(grey_range(padded, PERCENTILES), expected)


def test_dark_voxels_within_a_volume_without_padding_count(scan):
    scan[:, 5:15, 5:15] = 0
    assert not padding_values(scan).size
    assert grey_range(scan, PERCENTILES) == tuple(np.percentile(scan, PERCENTILES))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("ends", list(itertools.product([0, -1], repeat=2)))
def test_one_edge_of_one_value_is_padding(scan, axis, ends):
    """Each of the twelve by itself, and only a whole one."""
    np.moveaxis(scan, axis, -1)[ends] = 7
    assert padding_values(scan).tolist() == [7]
    np.moveaxis(scan, axis, -1)[ends][4] = 8
    assert not padding_values(scan).size


def test_few_slices_are_no_padding():
    """A column of 3 equal voxels is chance."""
    slices = np.random.default_rng(0).integers(0, 4, (3, 31, 29)).astype(np.uint8)
    assert not padding_values(slices).size


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 9), (9, 9, 9)])
def test_nothing_but_padding_is_black(shape):
    slices = np.full(shape, 7, np.int16)
    np.testing.assert_array_equal(network_images(slices, 14, PERCENTILES), 0)


def test_the_three_lines_of_the_docstring_are_the_rule(scan):
    lines = grey_range.__doc__.partition("edges = [")
    code = (lines[1] + lines[2].partition("Args:")[0]).replace("\n    ", "\n").strip()
    for volume in (scan, np.pad(scan, ((0, 0), (30, 31), (17, 8)))):
        names = {"np": np, "volume": volume, "percentiles": PERCENTILES}
        exec(code.replace("\n    ", "\n"), names)
        assert grey_range(volume, PERCENTILES) == tuple(names["grey"])


def test_a_window_is_the_same_for_all_volumes(scan):
    """Of any margin, and of any other voxels: what CT's units mean does not depend on them."""
    window = (-150, 850)
    slices = scan.astype(np.float32) * 3 - 400
    assert grey_range(slices, PERCENTILES, window) == window
    assert grey_range(np.pad(slices, 9), PERCENTILES, window) == window
    expected = network_images(np.clip((slices + 150) / 1000, 0, 1), 14, PERCENTILES, (0, 1))
    np.testing.assert_allclose(network_images(slices, 14, PERCENTILES, window), expected, atol=1e-6)


def test_a_volume_outside_the_window_is_refused(scan):
    with pytest.raises(InputError, match=r"expected some within \(5000, 6000\)"):
        network_images(scan, 14, PERCENTILES, (5000, 6000))
