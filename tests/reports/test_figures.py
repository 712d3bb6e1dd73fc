"""Figures are drawn to scale, and numbers are written alike."""

import re

import numpy as np

from lagseg_jax.evaluation.statistics import bland_altman
from lagseg_jax.reports.figures import bland_altman_figure, curve_figure, number, strip
from lagseg_jax.reports.html import DASH, MINUS


def test_numbers():
    assert number(-1.25, 1) == f"{MINUS}1.2" and number(-0.004, 2) == "0.00"
    assert number(np.nan, 2) == DASH and number(0.9, 3) == "0.900"


def places(figure, element="circle", names=("cx", "cy")):
    found = re.findall(f"<{element} [^>]*>", figure)
    return [tuple(float(re.search(rf'\b{n}="([^"]*)"', tag)[1]) for n in names) for tag in found]


def test_bland_altman_figure_is_drawn_to_scale():
    truth, prediction = np.array([50.0, 100, 150, np.nan]), np.array([48.0, 106, 150, 40])
    limits = bland_altman(truth, prediction)
    figure = bland_altman_figure(truth, prediction, list("abcd"), limits)
    (xa, ya), (xb, yb), (xc, yc) = places(figure)
    # Means 49, 103, 150; differences -2, 6, 0; upwards is smaller.
    np.testing.assert_allclose((xb - xa) / (xc - xa), 54 / 101, atol=0.002)
    np.testing.assert_allclose((ya - yb) / (ya - yc), 8 / 2, atol=0.02)
    bias = float(re.search(r'class="line second" d="M\S+ (\S+)H', figure)[1])
    np.testing.assert_allclose((ya - bias) / (ya - yc), (limits["bias"] + 2) / 2, atol=0.02)
    assert figure.count('class="line dashed"') == 2
    one = bland_altman_figure(truth[:1], prediction[:1], ["a"], bland_altman([50], [48]))
    assert one.count("<circle") == 1 and "dashed" not in one
    assert bland_altman_figure(truth[3:], prediction[3:], ["d"], limits) == ""


def test_curves_are_drawn_to_scale_and_thinned():
    steps = list(range(10, 10_010, 10))
    curves = {"training": (steps, [1 / step for step in steps]), "validation": ([], [])}
    figure = curve_figure(curves, "loss", 5000)
    points = re.search(r'class="line first" d="M([^"]*)"', figure)[1].split("L")
    assert len(points) == 400 and "validation" not in figure and "step 5000" in figure
    short = curve_figure({"a": ([0, 50, 100], [0.5, 0.0, 1.0])}, "Dice", None)
    (xa, ya), (xb, yb), (xc, yc) = places(short)
    np.testing.assert_allclose((xb - xa, yb - yc), ((xc - xa) / 2, 2 * (ya - yc)), atol=0.2)
    assert curve_figure({"a": ([], [])}, "Dice", None) == ""


def test_strip_has_a_dot_for_each_value():
    figure = strip(np.array([0.5, np.nan, 0.75, 1.0]), list("abcd"), (0.55, 0.95), 2)
    dots = places(figure)
    np.testing.assert_allclose([x for x, _ in dots], [5, 90, 175])
    interval = re.search(r'class="line second" d="M(\S+) 38H(\S+)"', figure)
    np.testing.assert_allclose([float(interval[1]), float(interval[2])], [22, 158])
    assert strip(np.array([np.nan]), ["a"], (np.nan, np.nan), 2) == ""
    assert strip(np.array([0.7, 0.7]), ["a", "b"], (np.nan, np.nan), 2).count("<circle") == 2
