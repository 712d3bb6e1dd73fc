"""The sentences and colours about fusion weights follow from the weights."""

import re

import numpy as np

from lagseg_jax.reports.fusion_figure import effective_blocks, heat_map, read_in_words

SCALES = ["1/14", "1/2"]


def test_effective_blocks_by_hand():
    weights = np.array([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [0.7, 0.1, 0.1, 0.1]])
    entropy = -(0.7 * np.log(0.7) + 0.3 * np.log(0.1))
    np.testing.assert_allclose(effective_blocks(weights), [1, 4, 2, np.exp(entropy)])


def test_one_block():
    words = read_in_words(np.array([[0, 0, 0, 1.0]] * 2), SCALES, True)
    assert words == "Only block 3 of 4 takes part, so there is nothing to weigh."


def test_fixed_weights():
    words = read_in_words(np.array([[0, 0.5, 0, 0.5]] * 2), SCALES, False)
    assert words.startswith("2 of 4 blocks take part (1, 3), with equal shares that were fixed")


def test_weights_that_hardly_moved():
    words = read_in_words(np.array([[0.24, 0.26, 0.25, 0.25]] * 2), SCALES, True)
    assert "stayed close to equal shares: 24.0 to 26.0&nbsp;%" in words
    assert "an equal share is 25.0&nbsp;%" in words and "4.0 of 4 blocks" in words


def test_which_blocks_dominate_where():
    coarse = np.array([0.01, 0.01, 0.01, 0.01, 0.02, 0.04, 0.35, 0.55])
    fine = np.array([0.2, 0.2, 0.02, 0.3, 0.1, 0.06, 0.06, 0.06])
    words = read_in_words(np.stack([coarse, fine]), SCALES, True)
    assert words.startswith("All 8 blocks take part, with clearly uneven weights")
    assert "in block 7 at 1/14 (7 leads with 55.0&nbsp;%)" in words
    assert "in blocks 0, 3 at 1/2 (3 leads with 30.0&nbsp;%)" in words
    mean = np.stack([coarse, fine]) @ np.arange(8)
    assert f"deeper blocks than the finest: the mean block is {mean[0]:.1f} at 1/14" in words
    swapped = read_in_words(np.stack([fine, coarse]), SCALES, True)
    assert "earlier blocks than the finest" in swapped
    alike = read_in_words(np.stack([coarse, coarse]), SCALES, True)
    assert "read about the same depth" in alike


def test_runs_of_blocks_are_joined():
    weights = np.array([[0.03, 0.18, 0.17, 0.16, 0.03, 0.02, 0.02, 0.2, 0.19]] * 2)
    assert "in blocks 1, 7&#8209;8 at" in read_in_words(weights, SCALES, True)


def test_a_few_dominate():
    weights = np.full((2, 40), 0.0005)
    weights[:, 17] = 1 - weights[0, 1:].sum()
    assert "with a few that dominate" in read_in_words(weights, SCALES, True)


def opacities(figure):
    """Block -> opacity of its cell in the first row."""
    cells = re.findall(r'fill-opacity="([\d.]+)"><title>scale 1/14, block (\d+)', figure)
    return {int(block): float(opacity) for opacity, block in cells}


def test_colours_follow_the_share():
    weights = np.array([[0.05, 0.1, 0, 0.2, 0.65]])
    figure = heat_map(weights, ["1/14"])
    # Four of five blocks take part: an equal share is a quarter.
    expected = 0.5 + np.log2(weights[0] / 0.25, where=weights[0] > 0, out=np.zeros(5)) / 4
    found = opacities(figure)
    assert set(found) == {0, 1, 3, 4} and "&middot;" in figure
    for block, opacity in found.items():
        np.testing.assert_allclose(opacity, np.clip(expected[block], 0, 1), atol=6e-4)
    assert ">65.0<" in figure and figure.count("effective blocks") == 1
