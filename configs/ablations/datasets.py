r"""Generalisation: trained on each of several datasets, tested on the test cases of all of them.

    python -m lagseg_jax.study --study=configs/ablations/datasets.py --config=configs/base.py \
        --workdir=runs/datasets --config.data.root="('a=LASCARQS','b=ATRIASEG2018')" \
        --config.encoder.weights=weights/base

Each dataset is a folder, or NAME=FOLDER; `data.images` and `data.labels` are one for all or one for
each. Scans that are in two of them are refused by content.
"""

import re

import ml_collections

from lagseg_jax.config.validate import as_tuple
from lagseg_jax.runtime.errors import InputError


def get_study(config: ml_collections.ConfigDict) -> dict:
    """One arm for each dataset of the base config's `data.root`."""
    datasets = named(as_tuple(config.data.root))
    fields: dict[str, tuple] = {"data.root": tuple(datasets.values())}
    for field in ("images", "labels"):
        if len(texts := as_tuple(config.data[field])) == len(datasets) > 1:
            fields[f"data.{field}"] = texts
    arms = [dict(zip(fields, values)) for values in zip(*fields.values())]
    return {
        "title": "Trained on one dataset, tested on all",
        "reference": None,
        "cross_test": True,
        "arms": dict(zip(datasets, arms)),
    }


def named(roots: tuple[str, ...]) -> dict[str, str]:
    """{name: folder} of folders or NAME=FOLDER; folders without name are called as they are."""
    found: dict[str, str] = {}
    for root in roots:
        name, equals, folder = root.partition("=")
        if not equals:
            name, folder = re.sub(r"\W+", "_", root.rstrip("/").rpartition("/")[2]), root
        if name in found:
            raise InputError(
                f"config.data.root: {found[name]} and {folder} are both called {name}, expected "
                "NAME=FOLDER with different names"
            )
        found[name] = folder
    return found
