"""Draws the contours of truth and prediction on eight slices over the atrium, as one PNG.

Letters name the sides of the patient, and a bar shows how long some millimetres are.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from lagseg_jax.imaging.views import View, scale_bar, view_of
from lagseg_jax.runtime.console import printable
from lagseg_jax.runtime.files import write_atomically

ROWS, COLUMNS = 2, 4
MOST_PIXELS = 1.1e6  # of a picture: about 1 MB, so that three of them can be mailed in a report
# Okabe and Ito's sky blue and orange: told apart on grey with every kind of colour vision.
TRUTH_COLOUR, PREDICTION_COLOUR = "#56B4E9", "#E69F00"
BACKGROUND, TEXT = "#101216", "#E8EAED"
OUTLINE = [withStroke(linewidth=2.5, foreground="k")]
PANEL, HEADER = 3.0, 0.55  # inches: width of a panel, height of the title's line


def write_overlay(
    path: str | os.PathLike,
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    title: str,
    affine: np.ndarray,
    window: Sequence[float] = (),
) -> None:
    """Draws eight slices spread over the atrium, cropped to it plus a margin, as a PNG.

    No global state of matplotlib is touched and no display is needed; the file appears complete
    or not at all.

    Args:
      path: the PNG to write, in a folder that exists.
      image: (Z, H, W), any real dtype, cut by `slices.to_slices`.
      truth: (Z, H, W), non-zero inside, or None to draw the prediction alone.
      prediction: (Z, H, W), non-zero inside.
      title: the case and its metrics, one line.
      affine: (4, 4) of `views.slices_affine`, index (slice, row, column) -> RAS mm.
      window: grey values that become black and white; (): percentiles of what is shown.
    """
    view = view_of(affine)
    if view.upturned:
        image, prediction = image[:, ::-1], prediction[:, ::-1]
        truth = None if truth is None else truth[:, ::-1]
    # Truth first and wider, so that it still shows where the prediction covers it.
    drawn = [] if truth is None else [("truth", truth != 0, TRUTH_COLOUR, 2.8)]
    drawn += [("prediction", prediction != 0, PREDICTION_COLOUR, 1.4)]
    slices, rows, columns = _region(np.logical_or.reduce([mask for _, mask, _, _ in drawn]))
    shown = image[slices][:, rows, columns]
    low, high = window or np.percentile(shown, (1, 99.7))
    tall = view.spacing[1] / view.spacing[2]  # a pixel, in widths
    figure, panels, top = _figure(tall * shown.shape[1] / shown.shape[2])
    for panel, number, picture in zip(panels, slices, shown):
        panel.imshow(
            picture, cmap="gray", vmin=low, vmax=high, interpolation="bilinear", aspect=tall
        )
        for _, mask, colour, width in drawn:
            _draw_contour(panel, mask[number, rows, columns], colour, width)
        _write(panel, 0.03, 0.965, f"slice {number}", va="top")
        _draw_marks(panel, view, picture.shape[1])
        panel.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
    _draw_header(figure, (1 + top) / 2, title, {name: colour for name, _, colour, _ in drawn})
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    write_atomically(Path(path), content.getvalue())


def _figure(height: float) -> tuple[Figure, list[Axes], float]:
    """An empty figure, its panels of this height in widths, and where its header begins."""
    size = (COLUMNS * PANEL, ROWS * PANEL * height + HEADER)
    dpi = min(130, math.sqrt(MOST_PIXELS / (size[0] * size[1])))
    figure = Figure(figsize=size, dpi=dpi, facecolor=BACKGROUND)
    top = 1 - HEADER / size[1]
    panels = figure.subplots(ROWS, COLUMNS, squeeze=False)
    figure.subplots_adjust(0.004, 0.006, 0.996, top, wspace=0.012, hspace=0.012)
    for panel in panels.flat:
        panel.set_axis_off()
    return figure, list(panels.flat), top


def _draw_contour(panel: Axes, mask: np.ndarray, colour: str, width: float) -> None:
    """The outline of a mask (H, W) over the picture of the same size."""
    if mask.any():
        # Padding closes the contours that run along the border of the crop.
        padded = np.pad(mask, 1).astype(float)
        extent = (-1, padded.shape[1] - 2, -1, padded.shape[0] - 2)
        panel.contour(padded, levels=[0.5], colors=colour, linewidths=width, extent=extent)


def _draw_marks(panel: Axes, view: View, columns: int) -> None:
    """Letters at the edges of a panel, and the scale bar in its corner."""
    left, right, top, bottom = view.letters
    _write(panel, 0.02, 0.5, left, va="center")
    _write(panel, 0.98, 0.5, right, va="center", ha="right")
    _write(panel, 0.5, 0.965, top, va="top", ha="center")
    _write(panel, 0.5, 0.035, bottom, va="bottom", ha="center")
    width = columns * view.spacing[2]
    bar = scale_bar(width)
    (line,) = panel.plot([0.03, 0.03 + bar / width], [0.04] * 2, color=TEXT, linewidth=2)
    line.set(transform=panel.transAxes, path_effects=OUTLINE)
    _write(panel, 0.03, 0.055, f"{bar} mm", va="bottom")


def _write(panel: Axes, x: float, y: float, text: str, **where: Any) -> None:
    """Text with a dark outline at a place of the panel, 0..1."""
    label = panel.text(x, y, text, color=TEXT, fontsize=9, **where)
    label.set(transform=panel.transAxes, path_effects=OUTLINE)


def _draw_header(figure: Figure, y: float, title: str, colours: dict[str, str]) -> None:
    """The title on the left and the names of the contours on the right, at the height y."""
    title = " ".join(printable(title).split())
    figure.text(0.008, y, title, parse_math=False, color=TEXT, fontsize=12, va="center")
    figure.legend(
        handles=[
            Line2D([], [], color=colour, lw=2.4, label=name) for name, colour in colours.items()
        ],
        loc="center right",
        bbox_to_anchor=(0.998, y),
        ncols=2,
        frameon=False,
        labelcolor=TEXT,
        fontsize=11,
    )


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
