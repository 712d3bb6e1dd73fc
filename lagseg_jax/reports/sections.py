"""what an evaluation left -> the sections of its report, as HTML.

Every text that comes from outside (names of cases, paths, commands) is escaped here.
"""

import base64
import json
from html import escape

import numpy as np

from lagseg_jax.evaluation.statistics import bland_altman, bootstrap_interval, mean_and_sd
from lagseg_jax.reports.figures import bland_altman_figure, curve_figure, number, strip
from lagseg_jax.reports.fusion_figure import heat_map, read_in_words
from lagseg_jax.reports.read import Evaluation

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


def results(evaluation: Evaluation) -> str:
    """Headline metrics with intervals, counts of empty masks, the check of Dice against IoU."""
    summary = evaluation.summary
    empty = (
        f"Empty masks: {summary['n_empty_truth']} in the truth, {summary['n_empty_prediction']} "
        f"predicted; {count_of(summary['n_distances_excluded'], 'case')} without surface distances "
        "(HD95, ASSD) and left out of their means."
    )
    few = (
        f" † With fewer than {FEWEST} cases an interval says nothing."
        if len(evaluation.names) < FEWEST
        else ""
    )
    return (
        "<h2>Whole volumes</h2><p>Mean over the cases, each judged as one 3D volume in its "
        "original grid. Volume error is prediction&nbsp;&minus;&nbsp;truth.</p>"
        f'<div class="cards">{_cards(evaluation, VOLUME)}</div><p>{empty}</p>'
        f"{_check(summary, 'volume')}"
        "<h2>Per slice (2D)</h2><p>Mean over the slices of a case that have atrium in truth or "
        "prediction, then over the cases. Not comparable with the numbers above: the small end "
        "slices weigh as much as the large ones.</p>"
        f'<div class="cards few">{_cards(evaluation, SLICE)}</div>{_check(summary, "slice")}'
        '<p class="small muted">Every dot is a case (the pointer shows its name); below them the '
        "mean with its 95 % interval (percentile bootstrap over cases, 10&nbsp;000 resamples). "
        f"With fewer than about ten cases such an interval is too narrow.{few}</p>"
    )


def _cards(evaluation: Evaluation, metrics: dict) -> str:
    cards = []
    for metric, (title, unit, digits) in metrics.items():
        values = evaluation.values[metric]
        count = np.isfinite(values).sum()
        low, high = bootstrap_interval(values)
        mean, spread = (number(value, digits) for value in mean_and_sd(values))
        mark, band = "", (low, high)
        if count < FEWEST:
            mark, band = "&nbsp;†", (np.nan, np.nan)
        cards.append(
            f'<div class="card"><h3>{title}</h3><p class="value">{mean}<small>{unit}</small></p>'
            f"<p>95 %: {number(low, digits)} to {number(high, digits)}{mark}</p>"
            f"<p>SD {spread}, n = {count}</p>"
            f"{strip(values, evaluation.names, band, digits)}</div>"
        )
    return "".join(cards)


def _check(summary: dict, kind: str) -> str:
    check = summary["dice_iou_check"][kind]
    if check["consistent"] is None:
        return ""
    found, floor = f"{check['found']:.4f}", f"{check['floor']:.4f}"
    if check["consistent"]:
        return (
            f'<p class="small muted">Check: mean IoU {found} is at least D / (2 &minus; D) = '
            f"{floor} of the mean Dice D, as it must be for means over the same masks.</p>"
        )
    return (
        f'<p class="banner"><strong>Inconsistent.</strong> Mean IoU {found} is below '
        f"D / (2 &minus; D) = {floor} of the mean Dice D: not means over the same masks.</p>"
    )


def pictures(evaluation: Evaluation) -> str:
    """The overlay pictures, worst case first."""
    if not evaluation.overlays:
        return "<h2>Pictures</h2><p>There are no overlay pictures in this folder.</p>"
    dice = dict(zip(evaluation.names, evaluation.values["dice"]))
    figures = []
    for rank, path in evaluation.overlays.items():
        case = path.stem.split("_", 1)[-1]
        score = f", Dice {number(dice[case], 3)}" if case in dice else ""
        picture = base64.b64encode(path.read_bytes()).decode()
        figures.append(
            f'<figure class="picture"><figcaption><strong>{rank.capitalize()}</strong> of '
            f"{len(dice)} by Dice: {escape(case)}{score}</figcaption>"
            f'<div class="scroll free"><img class="wide" alt="Contours of the {rank} case" '
            f'src="data:image/png;base64,{picture}"></div></figure>'
        )
    return (
        "<h2>Worst, median and best case</h2><p>Contours of truth (blue) and prediction (orange) "
        f"on slices spread over the atrium, cropped around it.</p>{''.join(figures)}"
    )


def volume(evaluation: Evaluation) -> str:
    """Bland-Altman plot of the volume, and its numbers."""
    truth, prediction = (evaluation.values[name] for name in ("truth_ml", "prediction_ml"))
    limits = bland_altman(truth, prediction)
    interval = bootstrap_interval(prediction - truth)
    between = " to ".join(number(value, 1) for value in interval)
    agreement = " to ".join(number(limits[name], 1) for name in ("low", "high"))
    mark = "" if len(evaluation.names) >= FEWEST else "&nbsp;†"
    return (
        "<h2>Volume of the left atrium</h2>"
        f'<div class="figures"><figure>'
        f"{bland_altman_figure(truth, prediction, evaluation.names, limits)}</figure><div>"
        "<h3>Bland-Altman</h3>"
        f"<dl><dt>Bias</dt><dd>{number(limits['bias'], 1)} mL (95 %: {between}{mark})</dd>"
        f"<dt>Limits of agreement</dt><dd>{agreement} mL</dd>"
        f"<dt>Mean truth</dt><dd>{_mean(truth)} mL</dd>"
        f"<dt>Mean prediction</dt><dd>{_mean(prediction)} mL</dd></dl>"
        '<p class="small muted">Bias (solid line) is the mean of prediction &minus; truth; limits '
        "(dashed) are bias &plusmn; 1.96 SD. Volumes are as true as the voxel spacing in the "
        "files.</p></div></div>"
    )


def training(evaluation: Evaluation) -> str:
    """Learning curves, or the sentence that there are none."""
    if not evaluation.curve:
        return "<h2>Training</h2><p>There is no metrics.jsonl beside this evaluation.</p>"

    def points(name: str) -> tuple[list, list]:
        rows = [row for row in evaluation.curve if row.get(name) is not None]
        return [row["step"] for row in rows], [row[name] for row in rows]

    step = evaluation.summary["step"]
    figures = "".join(
        f"<figure>{curve_figure({n: points(key) for n, key in names.items()}, label, step)}"
        "</figure>"
        for label, names in (
            ("loss", {"training": "loss", "validation": "validation_loss"}),
            ("Dice", {"training": "dice", "validation": "validation_dice"}),
        )
    )
    return (
        "<h2>Training</h2><p>Loss and Dice as they were logged: training on augmented slices, "
        "validation over all voxels of the validation slices at network resolution, before any "
        f'post-processing.</p><div class="figures">{figures}</div>'
    )


def fusion(evaluation: Evaluation) -> str:
    """Heat map of the fusion weights, read in words."""
    if evaluation.fusion is None:
        return "<h2>Fusion weights</h2><p>There is no fusion_weights.csv in this folder.</p>"
    config = (evaluation.manifest or {}).get("config", {})
    learned = config.get("fusion", {}).get("learned", True)
    scales = [escape(scale) for scale in evaluation.scales]
    words = read_in_words(evaluation.fusion, scales, learned)
    return (
        f"<h2>Fusion weights</h2><p>{words}</p>"
        f'<div class="scroll free">{heat_map(evaluation.fusion, scales)}</div>'
        '<p class="small muted">Share of each encoder block at each decoder scale (1/14 is the '
        "coarsest). Effective blocks: exponential of the entropy of a row.</p>"
    )


def cases(evaluation: Evaluation) -> str:
    """The table of all cases, worst Dice first."""
    titles = {"case": ("Case", "", 0), **TABLE}
    heads = "".join(
        f'<th scope="col" tabindex="0" aria-sort="{"ascending" if metric == "dice" else "none"}">'
        f"{title}{f' ({unit})' if unit else ''}</th>"
        for metric, (title, unit, _) in titles.items()
    )
    values = evaluation.values
    worst_first = np.argsort(values["dice"], kind="stable")
    rows = []
    for case in worst_first:
        name = escape(evaluation.names[case])
        cells = "".join(
            f'<td data-value="{_plain(values[metric][case])}">'
            f"{number(values[metric][case], digits)}</td>"
            for metric, (_, _, digits) in TABLE.items()
        )
        rows.append(f'<tr><td data-value="{name}">{name}</td>{cells}</tr>')
    return (
        "<h2>Cases</h2><p>Press a column's name to sort by it. A dash is a distance that an empty "
        "mask does not have.</p>"
        '<div class="scroll"><table><thead><tr><td></td><th colspan="4">Whole volume</th>'
        '<th colspan="3">Volume in mL</th><th colspan="2">Per slice</th></tr>'
        f"<tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def manifest(evaluation: Evaluation) -> str:
    """What the evaluation was made from and by."""
    manifest = evaluation.manifest
    if manifest is None:
        return "<h2>Manifest</h2><p>There is no manifest.json in this folder.</p>"
    encoder, dataset, devices = (manifest[name] for name in ("encoder", "dataset", "devices"))
    adapted = f", adapted: {encoder['adapted']}" if encoder.get("adapted") else ""
    versions = manifest["versions"].items()
    facts = {
        "Date": manifest["date"],
        "Command": manifest["command"],
        "Code": manifest["git"] or "not run from a git checkout",
        "Encoder weights": f"{encoder['weights']}, SHA-256 {encoder['sha256']}{adapted}",
        "Checkpoint, seed": f"step {manifest['checkpoint_step']}, seed {manifest['seed']}",
        "Evaluated data": f"{count_of(dataset['cases'], 'case')} of {dataset['root']}, names and "
        f"contents SHA-256 {dataset['sha256']}",
        "Devices": f"{devices['count']} x {devices['kind']} ({devices['platform']}), "
        f"{count_of(devices['processes'], 'process')}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions if version),
    }
    entries = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    config = escape(json.dumps(manifest["config"], indent=2))
    return (
        f"<h2>Manifest</h2><dl>{entries}</dl><details><summary>Whole config</summary>"
        f"<pre>{config}</pre></details>"
    )


def _mean(values: np.ndarray) -> str:
    return number(mean_and_sd(values)[0], 1)


def _plain(value: float) -> str:
    return f"{value:.9g}" if np.isfinite(value) else ""


def count_of(count: int, what: str) -> str:
    """Number and noun: 1 case, 2 cases, 2 processes."""
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"
