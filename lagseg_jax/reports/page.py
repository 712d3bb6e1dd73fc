"""evaluation folder -> report.html: one file with everything in it, that asks the network nothing.

The page's own policy forbids the browser to load anything, and to run any other script than the one
that sorts its table.
"""

import base64
import hashlib
from html import escape
from pathlib import Path

from lagseg_jax.reports.read import Evaluation, read_evaluation
from lagseg_jax.reports.sections import (
    cases,
    count_of,
    fusion,
    manifest,
    pictures,
    results,
    training,
    volume,
)
from lagseg_jax.reports.style import CSS, SCRIPT
from lagseg_jax.runtime.files import write_atomically

SECTIONS = {
    "Results": results,
    "Pictures": pictures,
    "Volume": volume,
    "Training": training,
    "Fusion": fusion,
    "Cases": cases,
    "Manifest": manifest,
}
RESEARCH = "Research use only. Not a medical device; not for diagnosis or treatment."


def write_report(folder: Path) -> Path:
    """Writes `report.html` into the folder of an evaluation, from the files there.

    Args:
        folder: with summary.json and per_case.csv; metrics.jsonl may lie beside it.

    Returns:
        The page, complete or not there at all.

    Raises:
        InputError: a file of the evaluation is missing or damaged.
    """
    folder = Path(folder)
    path = folder / "report.html"
    write_atomically(path, page(read_evaluation(folder)))
    return path


def page(evaluation: Evaluation) -> str:
    """The whole HTML text."""
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in SECTIONS)
    body = "".join(
        f'<section id="{name.lower()}">{section(evaluation)}</section>'
        for name, section in SECTIONS.items()
    )
    script_hash = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{script_hash}'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(evaluation.name)}: left atrium segmentation</title>
<style>{CSS}</style>
</head>
<body>
<header>{_header(evaluation)}<nav>{links}</nav></header>
<main>{body}</main>
<footer>{RESEARCH} Written by lagseg_jax from the files beside this one.</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _header(evaluation: Evaluation) -> str:
    encoder = evaluation.summary["encoder"]
    registers = f" with {encoder['registers']} registers" if encoder.get("registers") else ""
    adapted = f", adapted: {encoder['adapted']}" if encoder.get("adapted") else ""
    facts = [
        count_of(len(evaluation.names), "case"),
        f"encoder {encoder['variant']}{registers}, weights: {encoder['weights']}{adapted}",
        f"checkpoint of step {evaluation.summary['step']}",
    ]
    if evaluation.manifest:
        facts.append(evaluation.manifest["date"].replace("T", " ").replace("+00:00", " UTC"))
    banner = ""
    if encoder.get("warning"):
        sentence = escape(encoder["warning"])
        banner = (
            '<p class="banner" role="alert"><strong>Random encoder.</strong> '
            f"{sentence[0].upper()}{sentence[1:]}.</p>"
        )
    return (
        f"<h1>Left atrium segmentation: {escape(evaluation.name)}</h1>"
        f'<p class="muted">{escape(" · ".join(facts))}</p>'
        f'<p class="small muted">{RESEARCH}</p>{banner}'
    )
