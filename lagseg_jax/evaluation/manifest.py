"""Records what an evaluation was made by: code, command, weights, data, devices and versions."""

import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import ml_collections

from lagseg_jax.config.validate import as_tuple
from lagseg_jax.data.cases import Case
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.model.segmentation import decoder_dtype
from lagseg_jax.runs.init_source import FIELDS
from lagseg_jax.runtime.files import content_sha256
from lagseg_jax.runtime.host import git_commit, library_versions


def run_manifest(
    segmenter: Segmenter, cases: Sequence[Case], external: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What was run, on what, by what.

    Args:
        segmenter: the model that was evaluated.
        cases: the labelled cases it was evaluated on; every file of theirs is read once.
        external: of a test set that is not the run's own: `run` (its folder), `partners` of an
            ensemble, `name` of the test set, `split` ("" for all cases), and `seen_cases` that
            they have learnt from.

    Returns:
        JSON-serialisable: `date` (UTC), `command`, `git` (None outside a checkout), `seed`,
        `checkpoint_step`, `init_from` (the run that this one began with, or None), `external`,
        `encoder`, `decoder_dtype` (here), `dataset`, `devices`, `versions` and
        the whole `config`.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "git": git_commit(Path(__file__).parent),
        "seed": segmenter.config.seed,
        "checkpoint_step": segmenter.step,
        "init_from": segmenter.source and {name: segmenter.source[name] for name in FIELDS},
        "external": external,
        "encoder": segmenter.encoder.report(),
        "decoder_dtype": decoder_dtype(segmenter.config.decoder.dtype),
        "dataset": {
            "root": dataset_root(segmenter.config.data),
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


def dataset_root(data: ml_collections.ConfigDict) -> str:
    """Where the cases of `config.data` lie, in words: their folders, or their table."""
    return ", ".join(as_tuple(data.root or data.images))


def dataset_hash(cases: Sequence[Case]) -> str:
    """SHA-256 over the names of the cases and the SHA-256 of their image and label files.

    The folder they lie in and their order do not count; the same cases give the same hash on every
    machine.
    """
    digest = hashlib.sha256()
    for case in sorted(cases, key=lambda case: case.name):
        contents = [content_sha256(path) for path in (case.image, case.label) if path is not None]
        digest.update(os.fsencode("\0".join([case.name, *contents, ""])))
    return digest.hexdigest()
