"""Predicts and scores labelled cases: per_case.csv, summary.json, masks and pictures of a run.

Every case is judged as a whole volume in its original grid, by `evaluation.metrics`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from lagseg_jax.data.cases import Case
from lagseg_jax.evaluation.manifest import run_manifest
from lagseg_jax.evaluation.metrics import DIGITS, METRICS, case_metrics, summarise
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.grey_values import grey_range, normalise
from lagseg_jax.imaging.labels import LabelRule, read_image_and_label
from lagseg_jax.imaging.overlay import write_overlay
from lagseg_jax.imaging.reading import Reading
from lagseg_jax.imaging.review_case import case_content
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.views import slices_affine
from lagseg_jax.imaging.volume import read_volume, write_mask
from lagseg_jax.inference.estimated_mask import predict_estimated
from lagseg_jax.inference.files import CasePage
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.inference.uncertainty import COLUMNS
from lagseg_jax.runtime.console import Progress, count_of, log, still
from lagseg_jax.runtime.files import short_name, write_csv, write_json
from lagseg_jax.runtime.processes import allgather, once, process, share

# All that an evaluation leaves, with the report made of it.
FILES = (
    *("masks", "overlays", "per_case.csv", "fusion_weights.csv", "manifest.json"),
    *("summary.json", "report.html", "review.html", "review"),
)


def evaluate(
    segmenter: Segmenter,
    cases: Sequence[Case],
    folder: Path,
    external: dict[str, Any] | None = None,
    case_page: CasePage | None = None,
) -> dict[str, Any]:
    """Predicts and scores the cases, and writes everything into `folder`.

    Several processes share the cases; the first one writes the tables and pictures over all.

    Args:
        segmenter: a trained model; what its estimator says stands beside the truth.
        cases: labelled cases.
        folder: gets `per_case.csv`, `summary.json`, `masks/<case>.nii.gz`, `overlays/*.png` of the
            best, the median and the worst case, `fusion_weights.csv` and `manifest.json`; all that
            `reports.page.write_report` needs.
        external: what the manifest says about a test set that is not the run's own.
        case_page: writes `review/<case>.html`; None for none.

    Returns:
        The content of summary.json.

    Raises:
        InputError: a file cannot be used.
    """
    if "plane" in segmenter.config.data.allow:
        segmenter = segmenter.in_any_plane()
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    # Written last: an evaluation that was killed is not taken for a finished one.
    once((folder / "summary.json").unlink, True)
    once(_remove_review, folder)
    if case_page is not None:
        (folder / "review").mkdir(exist_ok=True)
    rows, said = _judge(segmenter, share(cases), folder, case_page)
    for remark, count in said.items():
        log.warning("%s: %s", count_of(count, "case"), remark)
    by_name = {row["case"]: row for part in allgather(rows) for row in part}
    rows = [by_name[case.name] for case in cases]
    summary = _summary(segmenter, cases, rows)
    if process()[0] == 0:
        _write(folder, segmenter, cases, rows, summary, external)
    return summary


def _judge(
    segmenter: Segmenter, cases: Sequence[Case], folder: Path, case_page: CasePage | None
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Predicts and scores these cases; their rows, and how often each remark is to be made."""
    rows: list[dict[str, Any]] = []
    said: Counter[str] = Counter()
    progress = Progress("evaluating", len(cases))
    for case in cases:
        with still(f"evaluating {case.image}"):
            image, label = read_labelled(case, segmenter.config.data)
            said.update(segmenter.remarks(image))
            mask, scores = _score(segmenter, image, label)
            write_mask(mask_file(folder, case), mask, image)
            if case_page is not None:
                window = segmenter.config.data.window
                content = case_content(image, mask, label.array, None, segmenter.plane, window)
                page = folder / "review" / f"{short_name(case.name)}.html"
                case_page(page, _title(case.name, scores, segmenter), content)
        told = {"dataset": case.dataset} if case.dataset else {}
        rows.append({"case": case.name, **told, **scores})
        progress.advance({"dice": f"{scores['dice']:.3f}"})
    progress.close()
    return rows, said


def _summary(
    segmenter: Segmenter, cases: Sequence[Case], rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The content of summary.json."""
    encoder = segmenter.encoder.report()
    summary = {"encoder": encoder, "step": segmenter.step, **summarise(rows)}
    if merged := LabelRule(segmenter.config.data.label_value).merged:
        summary["labels"] = merged
    if datasets := list(dict.fromkeys(case.dataset for case in cases if case.dataset)):
        of = {name: [row for row in rows if row.get("dataset") == name] for name in datasets}
        summary["datasets"] = {name: summarise(some) for name, some in of.items()}
    return summary


def _write(
    folder: Path,
    segmenter: Segmenter,
    cases: Sequence[Case],
    rows: Sequence[dict[str, Any]],
    summary: dict[str, Any],
    external: dict[str, Any] | None,
) -> None:
    """All files but the masks; the summary last, which says that the others are there."""
    # The encoder's origin stands in every line, so that it survives copying.
    origin = summary["encoder"]["weights"]
    table = ({**row, "encoder_weights": origin} for row in rows)
    several = ["dataset"] * any(case.dataset for case in cases)
    estimates = [name for name in COLUMNS if name in rows[0]]
    columns = ["case", *several, *METRICS, *estimates, "encoder_weights"]
    write_csv(folder / "per_case.csv", columns, table)
    _write_overlays(segmenter, cases, rows, folder)
    _write_fusion_weights(folder / "fusion_weights.csv", segmenter)
    write_json(folder / "manifest.json", run_manifest(segmenter, cases, external))
    write_json(folder / "summary.json", summary)


def read_labelled(case: Case, data: ml_collections.ConfigDict) -> tuple[Volume, Volume]:
    """Image and label of a case as `config.data` says."""
    assert case.label is not None  # a split is of labelled cases
    rule = LabelRule(data.label_value, data.label_threshold)
    return read_image_and_label(case.image, case.label, rule, Reading.of(data))


def mask_file(folder: Path, case: Case) -> Path:
    """Where the mask of a case lies in the folder of an evaluation."""
    return folder / "masks" / f"{short_name(case.name)}.nii.gz"


def _score(segmenter: Segmenter, image: Volume, label: Volume) -> tuple[np.ndarray, dict[str, Any]]:
    """The mask (x, y, z) of an image, its `case_metrics`, and what is estimated of them."""
    _, geometry = to_slices(image.array, image.affine, segmenter.plane)
    segmenter.check_plane(geometry, str(image.path))
    post = segmenter.postprocessing
    mask, estimates = predict_estimated(segmenter, image, False, post)
    return mask, case_metrics(label.array, mask, image.affine, geometry.volume_axis) | estimates


def _write_fusion_weights(path: Path, segmenter: Segmenter) -> None:
    """One line per scale, coarsest first, one column per encoder block."""
    weights = segmenter.fusion_weights()
    blocks = [f"block_{block}" for block in range(weights.shape[1])]
    rows = (
        {"scale": f"1/{scale}", **{b: f"{w:.6g}" for b, w in zip(blocks, row)}}
        for scale, row in zip((14, *segmenter.config.decoder.scales), weights)
    )
    write_csv(path, ["scale", *blocks], rows)


def _write_overlays(
    segmenter: Segmenter, cases: Sequence[Case], rows: Sequence[dict], folder: Path
) -> None:
    """Pictures of the best, the median and the worst case by Dice."""
    overlays = folder / "overlays"
    overlays.mkdir(exist_ok=True)
    for old in overlays.glob("*.png"):
        old.unlink()
    ranked = sorted(range(len(rows)), key=lambda i: rows[i]["dice"])
    chosen = {ranked[len(ranked) // 2]: "median", ranked[-1]: "best", ranked[0]: "worst"}
    for number, rank in chosen.items():
        row, case = rows[number], cases[number]
        image, label = read_labelled(case, segmenter.config.data)
        told = Reading(orientation=segmenter.config.data.orientation)
        mask = read_volume(mask_file(folder, case), told)
        title = _title(f"{case.name} ({rank} of {len(rows)})", row, segmenter)
        shown, geometry = to_slices(image.array, image.affine, segmenter.plane)
        truth, prediction = (
            to_slices(v.array, v.affine, segmenter.plane)[0] for v in (label, mask)
        )
        window = tuple(segmenter.config.data.window)
        if not window:
            shown = normalise(shown, grey_range(shown, (0.5, 99.5)))
        affine = slices_affine(image.affine, image.array.shape, geometry)
        path = overlays / f"{short_name(f'{rank}_{case.name}')}.png"
        write_overlay(path, shown, truth, prediction, title, affine, window)


def _title(name: str, row: dict[str, float], segmenter: Segmenter) -> str:
    """A case and its metrics, one line."""
    title = f"{name}: Dice {row['dice']:.3f}"
    if np.isfinite(row["hd95_mm"]):
        title += f", HD95 {row['hd95_mm']:.1f} mm, ASSD {row['assd_mm']:.2f} mm"
    return title + " - random encoder" * bool(segmenter.encoder.warning)


def _remove_review(folder: Path) -> None:
    """Pages of an older evaluation would show other masks than the table has."""
    (folder / "review.html").unlink(missing_ok=True)
    for old in (folder / "review").glob("*.html"):
        old.unlink()


def summary_line(summary: dict[str, Any]) -> str:
    """The headline of a summary in one line."""
    titles = {"dice": "Dice", "iou": "IoU", "hd95_mm": "HD95", "assd_mm": "ASSD"}
    parts = []
    for name, title in titles.items():
        value, unit, digits = summary[name], " mm" * name.endswith("_mm"), DIGITS[name]
        if value["mean"] is not None:
            spread = "" if value["sd"] is None else f" +- {value['sd']:.{digits}f}"
            parts.append(f"{title} {value['mean']:.{digits}f}{spread}{unit}")
    return ", ".join(parts) + f" (mean over {count_of(summary['n_cases'], 'case')})"
