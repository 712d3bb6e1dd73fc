"""image, truth, prediction (Z, H, W) -> one PNG: contours on eight slices over the atrium."""

import io
import math
import os
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from lagseg_jax.runtime.console import printable
from lagseg_jax.runtime.files import write_atomically

ROWS, COLUMNS = 2, 4
MOST_PIXELS = 1.1e6  # of a picture: about 1 MB, so that three of them can be mailed in a report
# Okabe and Ito's sky blue and orange: told apart on grey with every kind of colour vision.
TRUTH_COLOUR, PREDICTION_COLOUR = "#56B4E9", "#E69F00"
BACKGROUND, TEXT = "#101216", "#E8EAED"


def write_overlay(
    path: str | os.PathLike,
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    title: str,
) -> None:
    """Draws eight slices spread over the atrium, cropped to it plus a margin, as a PNG.

    No global state of matplotlib is touched and no display is needed; the file appears complete
    or not at all.

    Args:
      path: the PNG to write, in a folder that exists.
      image: (Z, H, W), any real dtype; rows H run downwards in the picture, columns W to the right.
      truth: (Z, H, W), non-zero inside, or None to draw the prediction alone.
      prediction: (Z, H, W), non-zero inside.
      title: the case and its metrics, one line.
    """
    # Truth first and wider, so that it still shows where the prediction covers it.
    drawn = [] if truth is None else [("truth", truth != 0, TRUTH_COLOUR, 2.8)]
    drawn += [("prediction", prediction != 0, PREDICTION_COLOUR, 1.4)]
    slices, rows, columns = _region(np.logical_or.reduce([mask for _, mask, _, _ in drawn]))
    shown = image[slices][:, rows, columns]
    low, high = np.percentile(shown, (1, 99.7))

    width = 3.0  # inches per panel
    height = width * shown.shape[1] / shown.shape[2]
    header = 0.55
    size = (COLUMNS * width, ROWS * height + header)
    dpi = min(130, math.sqrt(MOST_PIXELS / (size[0] * size[1])))
    figure = Figure(figsize=size, dpi=dpi, facecolor=BACKGROUND)
    canvas = FigureCanvasAgg(figure)
    top = 1 - header / figure.get_figheight()
    panels = figure.subplots(ROWS, COLUMNS, squeeze=False)
    figure.subplots_adjust(0.004, 0.006, 0.996, top, wspace=0.012, hspace=0.012)
    for panel in panels.flat:
        panel.set_axis_off()
    for panel, number, picture in zip(panels.flat, slices, shown):
        panel.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
        for _, mask, colour, line_width in drawn:
            if mask[number, rows, columns].any():
                # Padding closes the contours that run along the border of the crop.
                outline = np.pad(mask[number, rows, columns], 1).astype(float)
                extent = (-1, outline.shape[1] - 2, -1, outline.shape[0] - 2)
                panel.contour(
                    outline, levels=[0.5], colors=colour, linewidths=line_width, extent=extent
                )
        label = panel.text(0.03, 0.965, f"slice {number}", color=TEXT, fontsize=9, va="top")
        label.set(
            transform=panel.transAxes, path_effects=[withStroke(linewidth=2.5, foreground="k")]
        )
        panel.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))

    middle = (1 + top) / 2
    title = " ".join(printable(title).split())
    figure.text(0.008, middle, title, parse_math=False, color=TEXT, fontsize=12, va="center")
    figure.legend(
        handles=[Line2D([], [], color=colour, lw=2.4, label=name) for name, _, colour, _ in drawn],
        loc="center right",
        bbox_to_anchor=(0.998, middle),
        ncols=2,
        frameon=False,
        labelcolor=TEXT,
        fontsize=11,
    )
    picture = io.BytesIO()
    canvas.print_png(picture)
    write_atomically(Path(path), picture.getvalue())


def _region(mask: np.ndarray) -> tuple[np.ndarray, slice, slice]:
    """Mask (Z, H, W) -> slice numbers to show, rows and columns to show; all of them if empty."""
    if not mask.any():
        mask = np.ones_like(mask)
    occupied = np.flatnonzero(mask.any((1, 2)))
    count = min(ROWS * COLUMNS, occupied.size)
    numbers = occupied[np.linspace(0, occupied.size - 1, count).round().astype(int)]
    return numbers, _with_margin(mask.max((0, 2))), _with_margin(mask.max((0, 1)))


def _with_margin(occupied: np.ndarray) -> slice:
    """Occupied rows (H,) -> the rows to show: these and a quarter of their extent on each side."""
    index = np.flatnonzero(occupied)
    margin = max(8, (index[-1] - index[0] + 1) // 4)
    return slice(max(0, index[0] - margin), min(occupied.size, index[-1] + 1 + margin))
