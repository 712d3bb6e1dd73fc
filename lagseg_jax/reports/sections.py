"""The sections of the report of an evaluation."""

from typing import Any

import numpy as np

from lagseg_jax.evaluation.statistics import bland_altman, bootstrap_interval, mean_and_sd
from lagseg_jax.reports.blocks import facts, missing, name_cell, note, number_cell, sorting_head
from lagseg_jax.reports.figures import bland_altman_figure, curve_figure, number, strip
from lagseg_jax.reports.fusion_figure import fusion_facts, heat_map
from lagseg_jax.reports.html import MINUS, SPACE, Html, beside, join, png, tag
from lagseg_jax.reports.read import Evaluation
from lagseg_jax.runtime.console import count_of

# metric -> name, unit, digits
VOLUME = {
    "dice": ("Dice", "", 3),
    "iou": ("IoU", "", 3),
    "hd95_mm": ("HD95", "mm", 2),
    "assd_mm": ("ASSD", "mm", 2),
    "volume_error_ml": ("Volume error", "mL", 1),
}
SLICE = {"slice_dice": ("Dice per slice", "", 3), "slice_iou": ("IoU per slice", "", 3)}
TABLE = {
    **{name: VOLUME[name] for name in ("dice", "iou", "hd95_mm", "assd_mm")},
    "truth_ml": ("Truth", "", 1),
    "prediction_ml": ("Predicted", "", 1),
    "volume_error_ml": ("Error", "", 1),
    "slice_dice": ("Dice", "", 3),
    "slice_iou": ("IoU", "", 3),
}
FEWEST = 3  # cases for which a bootstrap interval says anything


def results(evaluation: Evaluation) -> Html:
    """Headline metrics with intervals, counts of empty masks, the check of Dice against IoU."""
    summary = evaluation.summary
    few = f" † With fewer than {FEWEST} cases an interval says nothing."
    return join(
        tag("h2", "Whole volumes"),
        tag(
            "p",
            "Mean over the cases, each judged as one 3D volume in its original grid. Volume error "
            f"is prediction{SPACE}{MINUS}{SPACE}truth.",
        ),
        tag("div", _cards(evaluation, VOLUME), class_="cards"),
        tag(
            "p",
            f"Empty masks: {summary['n_empty_truth']} in the truth, "
            f"{summary['n_empty_prediction']} predicted; "
            f"{count_of(summary['n_distances_excluded'], 'case')} without surface distances "
            "(HD95, ASSD) and left out of their means.",
        ),
        _check(summary, "volume"),
        tag("h2", "Per slice (2D)"),
        tag(
            "p",
            "Mean over the slices of a case that have atrium in truth or prediction, then over the "
            "cases. Not comparable with the numbers above: the small end slices weigh as much as "
            "the large ones.",
        ),
        tag("div", _cards(evaluation, SLICE), class_="cards few"),
        _check(summary, "slice"),
        note(
            "Every dot is a case (the pointer shows its name); below them the mean with its 95 % "
            f"interval (percentile bootstrap over cases, 10{SPACE}000 resamples). With fewer than "
            "about ten cases such an interval is too narrow.",
            few if len(evaluation.names) < FEWEST else "",
        ),
    )


def _cards(evaluation: Evaluation, metrics: dict[str, tuple[str, str, int]]) -> list[Html]:
    cards = []
    for metric, (title, unit, digits) in metrics.items():
        values = evaluation.values[metric]
        count = np.isfinite(values).sum()
        low, high = bootstrap_interval(values)
        mean, spread = (number(value, digits) for value in mean_and_sd(values))
        mark, band = "", (low, high)
        if count < FEWEST:
            mark, band = f"{SPACE}†", (np.nan, np.nan)
        cards.append(
            tag(
                "div",
                tag("h3", title),
                tag("p", mean, tag("small", unit), class_="value"),
                tag("p", f"95 %: {number(low, digits)} to {number(high, digits)}{mark}"),
                tag("p", f"SD {spread}, n = {count}"),
                strip(values, evaluation.names, band, digits),
                class_="card",
            )
        )
    return cards


def _check(summary: dict[str, Any], kind: str) -> Html | str:
    check = summary["dice_iou_check"][kind]
    if check["consistent"] is None:
        return ""
    found, floor = f"{check['found']:.4f}", f"D / (2 {MINUS} D) = {check['floor']:.4f}"
    if check["consistent"]:
        return note(
            f"Check: mean IoU {found} is at least {floor} of the mean Dice D, as it must be for "
            "means over the same masks."
        )
    return tag(
        "p",
        tag("strong", "Inconsistent."),
        f" Mean IoU {found} is below {floor} of the mean Dice D: not means over the same masks.",
        class_="banner",
    )


def pictures(evaluation: Evaluation) -> Html:
    """The overlay pictures, worst case first."""
    if not evaluation.overlays:
        return missing("Pictures", "There are no overlay pictures in this folder.")
    dice = dict(zip(evaluation.names, evaluation.values["dice"]))
    figures = []
    for rank, path in evaluation.overlays.items():
        case = path.stem.split("_", 1)[-1]
        score = f", Dice {number(dice[case], 3)}" if case in dice else ""
        caption = f" of {len(dice)} by Dice: {case}{score}"
        picture = png(path.read_bytes(), class_="wide", alt=f"Contours of the {rank} case")
        figures.append(
            tag(
                "figure",
                tag("figcaption", tag("strong", rank.capitalize()), caption),
                tag("div", picture, class_="scroll free"),
                class_="picture",
            )
        )
    return join(
        tag("h2", "Worst, median and best case"),
        tag(
            "p",
            "Contours of truth (blue) and prediction (orange) on slices spread over the atrium, "
            "cropped around it.",
        ),
        figures,
    )


def volume(evaluation: Evaluation) -> Html:
    """Bland-Altman plot of the volume, and its numbers."""
    truth, prediction = (evaluation.values[name] for name in ("truth_ml", "prediction_ml"))
    limits = bland_altman(truth, prediction)
    interval = bootstrap_interval(prediction - truth)
    between = " to ".join(number(value, 1) for value in interval)
    agreement = " to ".join(number(limits[name], 1) for name in ("low", "high"))
    mark = "" if len(evaluation.names) >= FEWEST else f"{SPACE}†"
    numbers = {
        "Bias": f"{number(limits['bias'], 1)} mL (95 %: {between}{mark})",
        "Limits of agreement": f"{agreement} mL",
        "Mean truth": f"{number(mean_and_sd(truth)[0], 1)} mL",
        "Mean prediction": f"{number(mean_and_sd(prediction)[0], 1)} mL",
    }
    explained = note(
        f"Bias (solid line) is the mean of prediction {MINUS} truth; limits (dashed) are bias ± "
        "1.96 SD. Volumes are as true as the voxel spacing in the files."
    )
    figure = tag("figure", bland_altman_figure(truth, prediction, evaluation.names, limits))
    beside = tag("div", tag("h3", "Bland-Altman"), facts(numbers), explained)
    return join(
        tag("h2", "Volume of the left atrium"), tag("div", figure, beside, class_="figures")
    )


def training(evaluation: Evaluation) -> Html:
    """Learning curves, or the sentence that there are none."""
    if not evaluation.curve:
        return missing("Training", "There is no metrics.jsonl beside this evaluation.")

    def points(name: str) -> tuple[list[float], list[float]]:
        rows = [row for row in evaluation.curve if name in row]
        return [row["step"] for row in rows], [row[name] for row in rows]

    curves = {
        "loss": {"training": points("loss"), "validation": points("validation_loss")},
        "Dice": {"training": points("dice"), "validation": points("validation_dice")},
    }
    step = evaluation.summary["step"]
    figures = [tag("figure", curve_figure(c, label, step)) for label, c in curves.items()]
    return join(
        tag("h2", "Training"),
        tag(
            "p",
            "Loss and Dice as they were logged: training on augmented slices, validation over all "
            "voxels of the validation slices at network resolution, before any post-processing.",
        ),
        tag("div", figures, class_="figures"),
    )


def fusion(evaluation: Evaluation) -> Html:
    """Heat map of the fusion weights, and the facts in words."""
    if evaluation.fusion is None:
        return missing("Fusion weights", "There is no fusion_weights.csv in this folder.")
    config = (evaluation.manifest or {}).get("config", {})
    learned = config.get("fusion", {}).get("learned", True)
    return join(
        tag("h2", "Fusion weights"),
        tag("p", fusion_facts(evaluation.fusion, evaluation.scales, learned)),
        tag("div", heat_map(evaluation.fusion, evaluation.scales), class_="scroll free"),
        note(
            "Share of each encoder block at each decoder scale (1/14 is the coarsest). Effective "
            "blocks: exponential of the entropy of a row."
        ),
    )


def cases(evaluation: Evaluation) -> Html:
    """The table of all cases, worst Dice first."""
    heads = [sorting_head("Case")]
    for metric, (title, unit, _) in TABLE.items():
        sort = "ascending" if metric == "dice" else "none"
        heads.append(sorting_head(f"{title} ({unit})" if unit else title, sort))
    values, rows = evaluation.values, list[Html]()
    for case in np.argsort(values["dice"], kind="stable"):
        name = evaluation.names[case]
        link = tag("a", name, href=beside("review.html", place=name)) if evaluation.review else name
        cells = [
            number_cell(values[metric][case], digits) for metric, (*_, digits) in TABLE.items()
        ]
        rows.append(tag("tr", name_cell(name, link), cells))
    groups = {"Whole volume": 4, "Volume in mL": 3, "Per slice": 2}
    above = [tag("th", title, colspan=columns) for title, columns in groups.items()]
    return join(
        tag("h2", "Cases"),
        tag(
            "p",
            "Press a column's name to sort by it. A dash is a distance that an empty mask does not "
            "have.",
            " A case's name leads to all of its slices." if evaluation.review else "",
        ),
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", tag("td"), above), tag("tr", heads)),
                tag("tbody", rows),
            ),
            class_="scroll",
        ),
    )
