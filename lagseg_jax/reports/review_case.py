"""Writes the page on which every slice of one case can be looked at."""

from pathlib import Path
from typing import Any

from lagseg_jax.reports.html import RESEARCH, Html, data, join, self_contained, tag
from lagseg_jax.runtime.files import write_atomically

KEYS = {
    "Arrow keys, wheel": "next slice of the picture that was used last (1, 2 and 3 choose one)",
    "Page up, page down; Home, End": "five slices; first and last slice",
    "T, P, H": "truth, prediction, probability on and off",
    "+, \N{MINUS SIGN}, Ctrl and wheel": "zoom; drag to move",
    "0": "whole picture, first window",
    "Shift and drag": "window (sideways) and level (up and down)",
    "Click": "moves the other two planes to this place",
}


def write_case_page(path: Path, title: str, content: dict[str, Any]) -> None:
    """Writes the page of a case, complete or not at all.

    Args:
        path: of the page, in a folder that exists.
        title: the case and its numbers, one line.
        content: of `imaging.review_case.case_content`.
    """
    write_atomically(path, case_page(title, content))


def case_page(title: str, content: dict[str, Any]) -> str:
    """The whole HTML text."""
    planes = [view["plane"] for view in content["views"]]
    figures = [_figure(view, number == 0) for number, view in enumerate(content["views"])]
    body = join(
        tag("header", tag("h1", title), tag("p", RESEARCH, class_="small muted")),
        tag("noscript", tag("p", "This page needs JavaScript; it loads nothing.", class_="banner")),
        tag(
            "main",
            tag("div", _controls(content), class_="controls", role="group", aria_label="Display"),
            tag("div", figures, _surface(), class_="views"),
            tag("p", id="point", aria_live="polite", class_="small"),
            _help(planes),
        ),
        data("content", content),
    )
    styles = ["report.css", "review.css"]
    return self_contained(
        title, body, styles, [f"review_{part}.js" for part in ("picture", "case", "surface")]
    )


def _figure(view: dict[str, Any], first: bool) -> Html:
    """One plane; its script draws on the canvas and fills in bar, slider and caption."""
    plane, sides = view["plane"], ("left", "right", "top", "bottom")
    letters = [
        tag("span", letter, class_=f"side {where}") for where, letter in zip(sides, view["letters"])
    ]
    edges = ", ".join(f"{letter} {where}" for where, letter in zip(sides, view["letters"]))
    marks = tag("div", letters, tag("span", class_="bar"), class_="marks", aria_hidden="true")
    about = f"{plane.capitalize()} picture, {edges}"
    return tag(
        "figure",
        tag("div", tag("canvas", role="img", aria_label=about), marks, class_="screen"),
        tag("input", type="range", min=0, value=0, step=1, aria_label=f"{plane} slice"),
        tag("output", aria_live="polite" if first else "off"),
        class_=f"view {'main' if first else ''}".strip(),
    )


def _surface() -> Html:
    about = "Surface of the prediction in three dimensions"
    return tag(
        "figure",
        tag("canvas", id="surface", role="img", aria_label=about, tabindex=0),
        tag("output", id="solid"),
        tag("label", tag("input", type="checkbox", id="turn"), "Turn"),
        class_="surface",
    )


def _controls(content: dict[str, Any]) -> list[Html]:
    boxes = {"truth": "Truth"} if content["truth"] else {}
    boxes["prediction"] = "Prediction"
    found = [_box(name, title, True) for name, title in boxes.items()]
    if content["probability"] is not None:
        found.append(_box("heat", "Probability", False))
    for name, title, low, high in (("width", "Window", 2, 510), ("level", "Level", 0, 255)):
        slider = tag("input", type="range", id=name, min=low, max=high, step="any")
        found.append(tag("label", title, slider))
    found.append(tag("output", id="window", aria_live="polite"))
    names = {"farther": "Zoom out", "closer": "Zoom in", "reset": "Reset"}
    return [*found, *(tag("button", text, id=name, type="button") for name, text in names.items())]


def _box(name: str, title: str, on: bool) -> Html:
    box = tag("input", type="checkbox", id=name, checked="" if on else None)
    return tag("label", box, tag("span", title, class_=f"key {name}"))


def _help(planes: list[str]) -> Html:
    keys = [join(tag("dt", key), tag("dd", what)) for key, what in KEYS.items()]
    return tag(
        "details",
        tag("summary", "Keys, and how to read this"),
        tag("dl", keys),
        tag(
            "p",
            "Letters name the side of the patient at each edge: R and L right and left, A and P "
            "front and back, S and I head and feet; several where the slices are oblique, the main "
            "one first. Positions are scanner millimetres, RAS: x to the right, y to the front, "
            "z to the head; other programs say LPS, with x and y of the opposite sign. "
            f"Slices count from 0. Contours run along the edges of voxels. The {planes[0]} "
            "pictures are the slices that were predicted.",
        ),
    )
