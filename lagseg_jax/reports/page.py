"""Writes report.html, one file with all that an evaluation says, which asks the network nothing."""

from pathlib import Path

from lagseg_jax.reports.blocks import banner
from lagseg_jax.reports.estimates_section import estimates
from lagseg_jax.reports.html import RESEARCH, Html, document, join, tag
from lagseg_jax.reports.manifest_section import manifest
from lagseg_jax.reports.read import Evaluation, read_evaluation
from lagseg_jax.reports.sections import cases, fusion, pictures, results, training, volume
from lagseg_jax.runtime.console import count_of
from lagseg_jax.runtime.files import write_atomically

SECTIONS = {
    "Results": results,
    "Pictures": pictures,
    "Volume": volume,
    "Estimates": estimates,
    "Training": training,
    "Fusion": fusion,
    "Cases": cases,
    "Manifest": manifest,
}


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
    sections = {name: section(evaluation) for name, section in SECTIONS.items()}
    title = f"{evaluation.name}: left atrium segmentation"
    return document(title, _header(evaluation), sections)


def _header(evaluation: Evaluation) -> Html:
    encoder = evaluation.summary["encoder"]
    registers = f" with {encoder['registers']} registers" if encoder.get("registers") else ""
    adapted = f", adapted: {encoder['adapted']}" if encoder.get("adapted") else ""
    facts = [
        count_of(len(evaluation.names), "case"),
        f"encoder {encoder['variant']}{registers}, weights: {encoder['weights']}{adapted}",
        f"checkpoint of step {evaluation.summary['step']}",
    ]
    if merged := evaluation.summary.get("labels"):
        facts.append(str(merged))
    for name in dict.fromkeys(filter(None, evaluation.datasets)):
        dice = evaluation.values["dice"][[one == name for one in evaluation.datasets]]
        facts.append(f"{name}: {count_of(len(dice), 'case')}, mean Dice {dice.mean():.3f}")
    if evaluation.manifest:
        date = evaluation.manifest["date"].replace("T", " ").replace("+00:00", " UTC")
        facts.append(date)
    facts += [text for text in (evaluation.split_line, evaluation.allowed_line) if text]
    warnings = []
    if sentence := str(encoder.get("warning") or ""):
        warnings.append(banner("Random encoder.", f"{sentence[0].upper()}{sentence[1:]}."))
    if seen := ((evaluation.manifest or {}).get("external") or {}).get("seen_cases"):
        text = f"The run has learnt from {count_of(len(seen), 'case')}: {', '.join(seen)}."
        warnings.append(banner("No fair test.", text))
    return join(
        tag("h1", f"Left atrium segmentation: {evaluation.name}"),
        tag("p", " · ".join(facts), class_="muted"),
        tag("p", RESEARCH, class_="small muted"),
        warnings,
    )
