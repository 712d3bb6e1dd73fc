"""The section of a report that says what an evaluation was made from and by."""

import json
from typing import Any

from lagseg_jax.reports.blocks import facts, missing
from lagseg_jax.reports.html import Html, join, tag
from lagseg_jax.reports.read import Evaluation
from lagseg_jax.runtime.console import count_of


def manifest(evaluation: Evaluation) -> Html:
    """What the evaluation was made from and by."""
    manifest = evaluation.manifest
    if manifest is None:
        return missing("Manifest", "There is no manifest.json in this folder.")
    encoder, dataset, devices = (manifest[name] for name in ("encoder", "dataset", "devices"))
    adapted = f", adapted: {encoder['adapted']}" if encoder.get("adapted") else ""
    versions = manifest["versions"].items()
    about = {
        "Date": manifest["date"],
        "Command": manifest["command"],
        "Code": manifest["git"] or "not run from a git checkout",
        "Encoder weights": f"{encoder['weights']}, SHA-256 of tensors and rules "
        f"{encoder['sha256']}{adapted}",
        "Checkpoint, seed": f"step {manifest['checkpoint_step']}, seed {manifest['seed']}",
        **_together_with(manifest.get("external")),
        **_began_with(manifest.get("init_from")),
        "Evaluated data": f"{count_of(dataset['cases'], 'case')} of {dataset['root']}, names and "
        f"contents SHA-256 {dataset['sha256']}",
        "Split": evaluation.split_line or "not known",
        "Data": evaluation.allowed_line or "no problems were accepted",
        "Devices": f"{devices['count']} x {devices['kind']} ({devices['platform']}), "
        f"{count_of(devices['processes'], 'process')}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions if version),
    }
    config = tag("pre", json.dumps(manifest["config"], indent=2))
    return join(
        tag("h2", "Manifest"), facts(about), tag("details", tag("summary", "Whole config"), config)
    )


def _together_with(external: dict[str, Any] | None) -> dict[str, str]:
    line = "{run}, step {checkpoint_step}, seed {seed}".format
    partners = [line(**partner) for partner in (external or {}).get("partners", ())]
    return {"Mean probability with": "; ".join(partners)} if partners else {}


def _began_with(source: dict[str, Any] | None) -> dict[str, str]:
    if not source:
        return {}
    text = "{path}, step {checkpoint_step}, parameters SHA-256 {sha256}".format(**source)
    return {"Began with": text}
