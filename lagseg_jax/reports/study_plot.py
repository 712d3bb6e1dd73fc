"""Draws the Dice of a study's arms, or its curve over the number of training cases."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lagseg_jax.reports.study_table import Result, case_values, is_pooled, row_name, seed_means
from lagseg_jax.runtime.files import written_atomically

METRIC = "dice"
# Okabe and Ito's blue and vermilion: told apart with every kind of colour vision.
CASES, SEEDS = "#0072B2", "#D55E00"


def write_plot(folder: Path, study: dict, rows: list[dict], results: Sequence[Result]) -> None:
    """Draws Dice per arm (and fold), or against the number of training cases.

    Args:
        folder: gets `plot.svg` and `plot.png`.
        study: `title`, and `curve`: whether to draw a curve.
        rows: of `study_table.table_rows`.
        results: of the finished runs, at least one.
    """
    rows = [row for row in rows if row["metric"] == METRIC and row["n_seeds"]]
    figure = Figure(figsize=(6.4, 4.2) if study["curve"] else (6.4, 1.6 + 0.45 * len(rows)))
    axes = figure.subplots()
    draw = _draw_curve if study["curve"] else _draw_arms
    draw(axes, rows, results)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    warned = any(result.warning for result in results)
    title = study["title"] + (" (random encoder)" if warned else "")
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.legend(frameon=False, fontsize=8, loc="best")
    figure.tight_layout()
    for suffix in ("svg", "png"):
        with written_atomically(folder / f"plot.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix, dpi=160)


def _draw_arms(axes: Axes, rows: list[dict], results: Sequence[Result]) -> None:
    """From top to bottom: every case, the mean over cases +- SD, and the mean of every seed."""
    for place, row in enumerate(rows):
        mine = _results_of(row, results)
        cases = list(case_values(mine, METRIC).values())
        seeds = list(seed_means(mine, METRIC).values())
        # Spread in order, not at random: the picture is the same when it is drawn again.
        offsets = place + 0.18 * np.linspace(-1, 1, len(cases) + 2)[1:-1]
        spread = None if np.isnan(row["sd_cases"]) else row["sd_cases"]
        named = ("test case", "mean ± SD over cases", "mean of one seed")
        of_cases, of_means, of_seeds = named if place == 0 else ("", "", "")  # once in the legend
        axes.plot(cases, offsets, ".", color=CASES, alpha=0.35, label=of_cases)
        axes.errorbar(
            row["mean"], place, xerr=spread, label=of_means, fmt="o", color=CASES, capsize=3
        )
        axes.plot(seeds, [place] * len(seeds), "|", color=SEEDS, markersize=14, label=of_seeds)
    axes.set_yticks(range(len(rows)), [row_name(row) for row in rows], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("3D Dice")


def _draw_curve(axes: Axes, rows: list[dict], results: Sequence[Result]) -> None:
    """Mean and SD band over cases against the number of training cases, log scale."""
    rows = sorted((r for r in rows if is_pooled(r)), key=lambda row: row["training_cases"])
    x = [row["training_cases"] for row in rows]
    mean, sd = (np.array([row[key] for row in rows]) for key in ("mean", "sd_cases"))
    sd = np.nan_to_num(sd)
    axes.fill_between(x, mean - sd, mean + sd, color=CASES, alpha=0.15, label="± SD over cases")
    axes.plot(x, mean, "o-", color=CASES, label="mean over cases")
    for place, row in enumerate(rows):
        seeds = list(seed_means(_results_of(row, results), METRIC).values())
        named = "mean of one seed" if place == 0 else ""
        axes.plot([x[place]] * len(seeds), seeds, "_", color=SEEDS, markersize=12, label=named)
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{value:g}" for value in x])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training cases")
    axes.set_ylabel("3D Dice")


def _results_of(row: dict, results: Sequence[Result]) -> list[Result]:
    return [r for r in results if r.arm == row["arm"] and (is_pooled(row) or row["fold"] == r.fold)]
