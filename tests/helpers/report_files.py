"""Hand-made files of an evaluation, as `evaluate` writes them, for the tests of the report."""

import csv
import json
from pathlib import Path

import numpy as np

from lagseg_jax.evaluation.metrics import METRICS, summarise

STRANGE = '<b>Ωmega & "Söhne"\'s</b>'


def rows_of(count: int) -> list[dict]:
    """Plausible cases with different values; the first name is strange, the second case empty."""
    draw = np.random.default_rng(7)
    rows = []
    for number in range(count):
        dice = float(1 - draw.beta(2, 20))
        truth = float(draw.normal(95, 20))
        row = {"case": f"train_{number}" if number else STRANGE, "dice": dice}
        row |= {"iou": dice / (2 - dice), "hd95_mm": 9 - 5 * dice, "assd_mm": 3 - 2 * dice}
        row |= {"truth_ml": truth, "prediction_ml": truth + 3, "volume_error_ml": 3.0}
        row |= {"slice_dice": dice - 0.04, "slice_iou": (dice - 0.04) / (2.04 - dice)}
        rows.append(row)
    if count > 1:
        nothing = {"hd95_mm": np.nan, "assd_mm": np.nan, "volume_error_ml": -rows[1]["truth_ml"]}
        zeros = dict.fromkeys(("dice", "iou", "prediction_ml", "slice_dice", "slice_iou"), 0.0)
        rows[1] |= nothing | zeros
    return rows


def write_evaluation(workdir: Path, count: int, warning: str = "", blocks: int = 12) -> list[dict]:
    """Writes the files of an evaluation of `count` cases; returns its rows."""
    folder = workdir / "evaluation"
    (folder / "overlays").mkdir(parents=True)
    rows = rows_of(count)
    with (folder / "per_case.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["case", *METRICS, "encoder_weights"])
        writer.writeheader()
        writer.writerows({**row, "encoder_weights": "w"} for row in rows)
    encoder = {"variant": "base", "registers": 4, "weights": "weights/<base>", "sha256": "f" * 64}
    encoder |= {"warning": warning} if warning else {}
    summary = {"encoder": encoder, "step": 60, **summarise(rows)}
    (folder / "summary.json").write_text(json.dumps(summary))
    shares = np.random.default_rng(1).dirichlet(np.ones(blocks), 3)
    lines = [",".join(["scale", *(f"block_{block}" for block in range(blocks))])]
    lines += [f"{name},{','.join(map(str, row))}" for name, row in zip(("1/14", "1/2"), shares)]
    (folder / "fusion_weights.csv").write_text("\n".join(lines) + "\n")
    steps = [{"encoder": encoder}, {"step": 20, "loss": 0.7, "dice": 0.2}]
    steps += [{"step": 40, "loss": None, "validation_loss": 0.6, "validation_dice": 0.5}]
    steps += [{"step": 60, "loss": 0.4, "dice": 0.6, "validation_dice": 0.7}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    return rows
