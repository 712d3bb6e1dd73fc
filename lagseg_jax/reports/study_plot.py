"""rows and per-case Dice of a study -> plot.svg and plot.png: one row per arm, or a curve."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lagseg_jax.reports.study_table import POOLED, Result, case_values, seed_means
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
    (_draw_curve if study["curve"] else _draw_arms)(axes, rows, results)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    warned = any(result.warning for result in results)
    axes.set_title(study["title"] + (" (random encoder)" if warned else ""), fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="best")
    figure.tight_layout()
    for suffix in ("svg", "png"):
        with written_atomically(folder / f"plot.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix, dpi=160)


def _draw_arms(axes, rows: list[dict], results: Sequence[Result]) -> None:
    """From top to bottom: every case, the mean over cases +- SD, and the mean of every seed."""
    for place, row in enumerate(rows):
        label = place == 0
        mine = _results_of(row, results)
        cases = list(case_values(mine, METRIC).values())
        seeds = list(seed_means(mine, METRIC).values())
        # Spread in order, not at random: the picture is the same when it is drawn again.
        offsets = place + 0.18 * np.linspace(-1, 1, len(cases) + 2)[1:-1]
        axes.plot(cases, offsets, ".", color=CASES, alpha=0.35, label="test case" * label)
        spread = None if np.isnan(row["sd_cases"]) else row["sd_cases"]
        named = "mean ± SD over cases" * label
        axes.errorbar(row["mean"], place, xerr=spread, fmt="o", color=CASES, capsize=3, label=named)
        named = "mean of one seed" * label
        axes.plot(seeds, [place] * len(seeds), "|", color=SEEDS, markersize=14, label=named)
    names = [r["arm"] if r["fold"] == POOLED else f"{r['arm']}, fold {r['fold']}" for r in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlabel("3D Dice")


def _draw_curve(axes, rows: list[dict], results: Sequence[Result]) -> None:
    """Mean and SD band over cases against the number of training cases, log scale."""
    rows = sorted((r for r in rows if r["fold"] == POOLED), key=lambda row: row["training_cases"])
    x = [row["training_cases"] for row in rows]
    mean, sd = (np.array([row[key] for row in rows]) for key in ("mean", "sd_cases"))
    sd = np.nan_to_num(sd)
    axes.fill_between(x, mean - sd, mean + sd, color=CASES, alpha=0.15, label="± SD over cases")
    axes.plot(x, mean, "o-", color=CASES, label="mean over cases")
    for place, row in enumerate(rows):
        seeds = list(seed_means(_results_of(row, results), METRIC).values())
        named = "mean of one seed" * (place == 0)
        axes.plot([x[place]] * len(seeds), seeds, "_", color=SEEDS, markersize=12, label=named)
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{value:g}" for value in x])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training cases")
    axes.set_ylabel("3D Dice")


def _results_of(row: dict, results: Sequence[Result]) -> list[Result]:
    return [r for r in results if r.arm == row["arm"] and row["fold"] in (POOLED, r.fold)]
