"""The sentences and colours about fusion weights follow from the weights."""

import re

import numpy as np

from lagseg_jax.reports.fusion_figure import effective_blocks, fusion_facts, heat_map

SCALES = ["1/14", "1/2"]


def test_effective_blocks_by_hand():
    weights = np.array([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [0.7, 0.1, 0.1, 0.1]])
    entropy = -(0.7 * np.log(0.7) + 0.3 * np.log(0.1))
    np.testing.assert_allclose(effective_blocks(weights), [1, 4, 2, np.exp(entropy)])


def test_one_block():
    words = fusion_facts(np.array([[0, 0, 0, 1.0]] * 2), SCALES, True)
    assert words == "Only block 3 of 4 takes part, so there is nothing to weigh."


def test_fixed_weights():
    words = fusion_facts(np.array([[0, 0.5, 0, 0.5]] * 2), SCALES, False)
    assert words.startswith("2 of 4 blocks take part (1, 3), with equal shares that were fixed")


def test_the_largest_share_of_each_scale():
    coarse = np.array([0.01, 0.01, 0.01, 0.01, 0.02, 0.04, 0.35, 0.55])
    fine = np.array([0.2, 0.2, 0.02, 0.3, 0.1, 0.06, 0.06, 0.06])
    words = fusion_facts(np.stack([coarse, fine]), SCALES, True)
    assert words == (
        "All 8 blocks take part. The largest share has block 7 at 1/14 (55.0\N{NO-BREAK SPACE}%), "
        "block 3 at 1/2 (30.0\N{NO-BREAK SPACE}%); an equal share is 12.5\N{NO-BREAK SPACE}%."
    )


def test_an_equal_share_is_that_of_the_blocks_that_take_part():
    words = fusion_facts(np.array([[0, 0.6, 0, 0.4], [0, 0.1, 0, 0.9]]), SCALES, True)
    assert words.startswith("2 of 4 blocks take part (1, 3). The largest share has block 1 at 1/14")
    assert "block 3 at 1/2 (90.0" in words and "an equal share is 50.0" in words


def test_names_of_scales_are_text():
    assert "<b>" not in heat_map(np.array([[0.5, 0.5]]), ["<b>"])
    assert "<b> (50.0" in fusion_facts(np.array([[0.5, 0.5]]), ["<b>"], True)  # not yet markup


def test_many_blocks_are_numbered_every_fourth():
    figure = heat_map(np.full((1, 40), 1 / 40), ["1/14"])
    assert re.findall(r">(\d+)</text>", figure.split("effective blocks")[1]) == [
        str(block) for block in range(0, 40, 4)
    ]


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
    assert set(found) == {0, 1, 3, 4} and "\N{MIDDLE DOT}" in figure
    for block, opacity in found.items():
        np.testing.assert_allclose(opacity, np.clip(expected[block], 0, 1), atol=6e-4)
    assert ">65.0<" in figure and figure.count("effective blocks") == 1
