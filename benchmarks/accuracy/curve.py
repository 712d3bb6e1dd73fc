"""Dice over the number of training patients: one line for ours, the U-Net and nnU-Net each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.accuracy.arms import Arm
from lagseg_jax.evaluation.statistics import mean_and_sd
from lagseg_jax.reports.markdown import plain, table_head, table_row
from lagseg_jax.reports.study_table import Result, case_values
from lagseg_jax.runtime.files import written_atomically

# Okabe and Ito: told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def write_curve(folder: Path, arms: Mapping[str, Arm], results: Sequence[Result]) -> list[str]:
    """Draws `curve.svg` and `curve.png`, and returns the table in lines of Markdown.

    Args:
        folder: that exists.
        arms: by name; without `data.train_patients` nothing is drawn, and no line returned.
        results: of the finished runs; points without any are left out.
    """
    points = _points(arms, results)
    if not points:
        return []
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.subplots()
    for (name, curve), colour in zip(points.items(), COLOURS * len(points)):
        means, spreads = zip(*curve.values())
        style = {"marker": "o", "capsize": 3, "color": colour}
        axes.errorbar(list(curve), means, yerr=spreads, label=plain(name), **style)
    counts = sorted({count for curve in points.values() for count in curve})
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training patients")
    axes.set_ylabel("3D Dice, mean ± SD over test cases")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    for suffix in ("svg", "png"):
        with written_atomically(folder / f"curve.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix, dpi=160)
    lines = table_head(["Dice with so many training patients", *map(str, counts)])
    for name, curve in points.items():
        cells = ("{:.3f} ± {:.3f}".format(*curve[n]) if n in curve else "-" for n in counts)
        lines.append(table_row([plain(name), *cells]))
    return [*lines, ""]


def _points(
    arms: Mapping[str, Arm], results: Sequence[Result]
) -> dict[str, dict[int, tuple[float, float]]]:
    """{series: {patients: mean and SD of Dice over the test cases}}, from few to many patients."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for name, arm in arms.items():
        mine = [result for result in results if result.arm == name]
        if arm.series and mine:
            values = list(case_values(mine, "dice").values())
            count = arm.changes["data.train_patients"]
            found.setdefault(arm.series, {})[count] = mean_and_sd(values)
    return {series: dict(sorted(curve.items())) for series, curve in found.items()}
