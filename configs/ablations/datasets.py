r"""Generalisation: trained on each of several datasets, tested on the test cases of all of them.

    python -m lagseg_jax.study --study=configs/ablations/datasets.py --config=configs/base.py \
        --workdir=runs/datasets --config.data.root="('a=LASCARQS','b=ATRIASEG2018')" \
        --config.encoder.weights=weights/base

Each dataset is a folder, or NAME=FOLDER. Scans that are in two of them are refused by content.
"""

import ast
import re

import ml_collections


def get_study(config: ml_collections.ConfigDict) -> dict:
    """One arm for each dataset of the base config's `data.root`."""
    return {
        "title": "Trained on one dataset, tested on all",
        "reference": None,
        "cross_test": True,
        "arms": {
            name: {"data.root": root, **_naming(config.data, number)}
            for number, (name, root) in enumerate(named(config.data.root).items())
        },
    }


def _naming(data: ml_collections.ConfigDict, number: int) -> dict[str, str]:
    """The patterns of one dataset, where each has its own."""
    fields = {f"data.{name}": data[name] for name in ("images", "labels")}
    return {field: texts[number] for field, texts in fields.items() if isinstance(texts, tuple)}


def named(roots: str | tuple[str, ...]) -> dict[str, str]:
    """{name: folder} of folders or NAME=FOLDER; folders without name are called as they are."""
    if isinstance(roots, str):
        roots = ast.literal_eval(roots) if roots.startswith("(") else (roots,)
    found = {}
    for root in roots:
        name, equals, folder = root.partition("=")
        folder = folder if equals else root
        name = name if equals else re.sub(r"\W+", "_", folder.rstrip("/").rpartition("/")[2])
        found[name] = folder
    return found
