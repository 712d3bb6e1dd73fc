"""segmenter + labelled cases -> per_case.csv, summary.json, masks, pictures and report.html.

Every case is judged as a whole volume in its original grid, by lagseg_jax.metrics.
"""

import dataclasses
import hashlib
import logging
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import jax
import numpy as np

from lagseg_jax.data.layouts import Case
from lagseg_jax.evaluation.metrics import METRICS, case_metrics, summarise
from lagseg_jax.imaging.formats import Volume
from lagseg_jax.imaging.grey_values import grey_range, normalise
from lagseg_jax.imaging.overlay import write_overlay
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.volume import read_image_and_label, read_volume, remarks, write_mask
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.model.segmentation import decoder_dtype
from lagseg_jax.runtime.console import Progress, still
from lagseg_jax.runtime.files import file_sha256, write_csv, write_json
from lagseg_jax.runtime.host import git_commit, library_versions
from lagseg_jax.runtime.processes import allgather, process, share

log = logging.getLogger(__name__)


def evaluate(
    segmenter: Segmenter, cases: Sequence[Case], folder: Path, label_value: int | None = None
) -> dict:
    """Predicts and scores the cases, and writes everything into `folder`.

    Several processes share the cases; the first one writes the tables and pictures over all.

    Args:
        segmenter: a trained model.
        cases: labelled cases.
        folder: gets `per_case.csv`, `summary.json`, `masks/<case>.nii.gz`, `overlays/*.png` of the
            best, the median and the worst case, `fusion_weights.csv` and `manifest.json`; all that
            `reports.page.write_report` needs.
        label_value: of the atrium in the labels; None for the only non-zero value.

    Returns:
        The content of summary.json.

    Raises:
        InputError: a file cannot be used.
    """
    folder = Path(folder)
    if "plane" in segmenter.config.data.allow:
        segmenter = dataclasses.replace(segmenter, planes=())
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    said: Counter[str] = Counter()
    mine = share(cases)
    progress = Progress("evaluating", len(mine))
    for case in mine:
        with still(f"evaluating {case.image}"):
            image, label = _read(segmenter, case, label_value)
            said.update(remarks(image))
            mask, scores = _score(segmenter, image, label)
            write_mask(folder / "masks" / f"{case.name}.nii.gz", mask, image)
        rows.append({"case": case.name, **scores})
        progress.advance({"dice": f"{scores['dice']:.3f}"})
    progress.close()
    for remark, count in said.items():
        log.warning("WARNING: %d cases: %s", count, remark)
    by_name = {row["case"]: row for part in allgather(rows) for row in part}
    rows = [by_name[case.name] for case in cases]
    encoder = segmenter.encoder.report()
    summary = {"encoder": encoder, "step": segmenter.step, **summarise(rows)}
    if process()[0] > 0:
        return summary
    # The encoder's origin stands in every line, so that it survives copying.
    table = ({**row, "encoder_weights": encoder["weights"]} for row in rows)
    write_csv(folder / "per_case.csv", ["case", *METRICS, "encoder_weights"], table)
    write_json(folder / "summary.json", summary)
    _write_overlays(segmenter, cases, rows, folder, label_value)
    _write_fusion_weights(folder / "fusion_weights.csv", segmenter)
    write_json(folder / "manifest.json", run_manifest(segmenter, cases))
    return summary


def _score(
    segmenter: Segmenter, image: Volume, label: Volume
) -> tuple[np.ndarray, dict[str, float]]:
    """The mask (x, y, z) of an image and its `case_metrics`."""
    _, geometry = to_slices(image.array, image.affine, segmenter.plane)
    segmenter.check_plane(geometry, str(image.path))
    mask = segmenter.predict_volume(image.array, image.spacing, image.affine)
    return mask, case_metrics(label.array, mask, image.affine, geometry.volume_axis)


def _read(segmenter: Segmenter, case: Case, label_value: int | None) -> tuple[Volume, Volume]:
    assert case.label is not None  # a split is of labelled cases
    data = segmenter.config.data
    how = int(data.max_gb * 1e9), data.orientation, tuple(data.allow)
    return read_image_and_label(case.image, case.label, label_value, *how)


def _write_fusion_weights(path: Path, segmenter: Segmenter) -> None:
    """One line per scale, coarsest first, one column per encoder block."""
    weights = segmenter.fusion_weights()
    blocks = [f"block_{block}" for block in range(weights.shape[1])]
    rows = (
        {"scale": f"1/{scale}", **{b: f"{w:.6g}" for b, w in zip(blocks, row)}}
        for scale, row in zip((14, *segmenter.config.decoder.scales), weights)
    )
    write_csv(path, ["scale", *blocks], rows)


def _write_overlays(segmenter, cases, rows, folder: Path, label_value: int | None) -> None:
    """Pictures of the best, the median and the worst case by Dice."""
    overlays = folder / "overlays"
    overlays.mkdir(exist_ok=True)
    for old in overlays.glob("*.png"):
        old.unlink()
    ranked = sorted(range(len(rows)), key=lambda i: rows[i]["dice"])
    chosen = {ranked[len(ranked) // 2]: "median", ranked[-1]: "best", ranked[0]: "worst"}
    for number, rank in chosen.items():
        row, case = rows[number], cases[number]
        image, label = _read(segmenter, case, label_value)
        told = segmenter.config.data.orientation
        mask = read_volume(folder / "masks" / f"{case.name}.nii.gz", orientation=told)
        title = f"{case.name} ({rank} of {len(rows)}): Dice {row['dice']:.3f}"
        if np.isfinite(row["hd95_mm"]):
            title += f", HD95 {row['hd95_mm']:.1f} mm, ASSD {row['assd_mm']:.2f} mm"
        if segmenter.encoder.warning:
            title += " - random encoder"
        path = overlays / f"{rank}_{case.name}.png"
        shown, truth, prediction = (
            picture_slices(v, segmenter.plane) for v in (image, label, mask)
        )
        write_overlay(path, shown, truth, prediction, title)


def picture_slices(volume: Volume, plane: str = "") -> np.ndarray:
    """A volume or mask as slices (Z, H, W) in radiological view, greys scaled to 0..1."""
    slices, _ = to_slices(volume.array, volume.affine, plane)
    if slices.max() <= 1 and slices.dtype == np.uint8:
        return slices
    return normalise(slices, grey_range(slices, (0.5, 99.5)))


def describe(summary: dict) -> str:
    """The headline of a summary in one line."""
    parts = []
    for name, unit in (("dice", ""), ("iou", ""), ("hd95_mm", " mm"), ("assd_mm", " mm")):
        value = summary[name]
        if value["mean"] is not None:
            spread = "" if value["sd"] is None else f" +- {value['sd']:.3f}"
            title = {"dice": "Dice", "iou": "IoU", "hd95_mm": "HD95", "assd_mm": "ASSD"}[name]
            parts.append(f"{title} {value['mean']:.4f}{spread}{unit}")
    return ", ".join(parts) + f" (mean over {summary['n_cases']} cases)"


def run_manifest(segmenter: Segmenter, cases: Sequence[Case]) -> dict:
    """What was run, on what, by what.

    Args:
        segmenter: the model that was evaluated.
        cases: the labelled cases it was evaluated on; every file of theirs is read once.

    Returns:
        JSON-serialisable: `date` (UTC), `command`, `git` (None outside a checkout), `seed`,
        `checkpoint_step`, `encoder`, `decoder_dtype` (here), `dataset`, `devices`, `versions` and
        the whole `config`.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "git": git_commit(Path(__file__).parent),
        "seed": segmenter.config.seed,
        "checkpoint_step": segmenter.step,
        "encoder": segmenter.encoder.report(),
        "decoder_dtype": decoder_dtype(segmenter.config.decoder.dtype),
        "dataset": {
            "root": segmenter.config.data.root,
            "cases": len(cases),
            "sha256": dataset_hash(cases),
        },
        "devices": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "versions": {
            "python": platform.python_version(),
            **library_versions(),
            "system": platform.platform(),
        },
        "config": segmenter.config.to_dict(),
    }


def dataset_hash(cases: Sequence[Case]) -> str:
    """SHA-256 over the names of the cases and the SHA-256 of their image and label files.

    The folder they lie in and their order do not count; the same cases give the same hash on every
    machine.
    """
    digest = hashlib.sha256()
    for case in sorted(cases, key=lambda case: case.name):
        contents = [file_sha256(path) for path in (case.image, case.label) if path is not None]
        digest.update("\0".join([case.name, *contents, ""]).encode())
    return digest.hexdigest()
