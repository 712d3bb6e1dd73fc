"""Writes report.html, one file with all that an evaluation says, which asks the network nothing.

The page's own policy forbids the browser to load anything, to send anything, and to run any other
script than the one that sorts its table.
"""

import base64
import hashlib
from importlib import resources
from pathlib import Path

from lagseg_jax.reports.html import Html, document, join, raw, tag
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
    files = resources.files("lagseg_jax.reports")
    style, script = (files.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "form-action 'none'; base-uri 'none'"
    )
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{evaluation.name}: left atrium segmentation"),
        raw("style", style),
    )
    sections = {name.lower(): section(evaluation) for name, section in SECTIONS.items()}
    links = [tag("a", name, href=f"#{name.lower()}") for name in SECTIONS]
    body = join(
        tag("header", _header(evaluation), tag("nav", links)),
        tag("main", [tag("section", section, id=name) for name, section in sections.items()]),
        tag("footer", f"{RESEARCH} Written by lagseg_jax from the files beside this one."),
        raw("script", script),
    )
    return document(head, body)


def _hash(text: str) -> str:
    """What a policy calls the only style or script that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _header(evaluation: Evaluation) -> Html:
    encoder = evaluation.summary["encoder"]
    registers = f" with {encoder['registers']} registers" if encoder.get("registers") else ""
    adapted = f", adapted: {encoder['adapted']}" if encoder.get("adapted") else ""
    facts = [
        count_of(len(evaluation.names), "case"),
        f"encoder {encoder['variant']}{registers}, weights: {encoder['weights']}{adapted}",
        f"checkpoint of step {evaluation.summary['step']}",
    ]
    if evaluation.manifest:
        date = evaluation.manifest["date"].replace("T", " ").replace("+00:00", " UTC")
        facts += [f"split {evaluation.split}", date]
    banner = []
    if sentence := str(encoder.get("warning") or ""):
        strong = tag("strong", "Random encoder.")
        text = f" {sentence[0].upper()}{sentence[1:]}."
        banner.append(tag("p", strong, text, class_="banner", role="alert"))
    return join(
        tag("h1", f"Left atrium segmentation: {evaluation.name}"),
        tag("p", " · ".join(facts), class_="muted"),
        tag("p", RESEARCH, class_="small muted"),
        banner,
    )
