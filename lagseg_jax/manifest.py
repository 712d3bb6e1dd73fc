"""segmenter + evaluated cases -> manifest.json: what is needed to make these numbers again."""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import jax

from lagseg_jax.dataset import Case
from lagseg_jax.model import decoder_dtype
from lagseg_jax.segmenter import Segmenter
from lagseg_jax.versions import library_versions
from lagseg_jax.weights import file_sha256


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


def git_commit(folder: Path) -> str | None:
    """The commit that this folder's code was checked out from, `-dirty` if it was changed since.

    None if it is no checkout (an installed package), or there is no git.
    """
    # A package installed inside the checkout of something else is not tracked there.
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    return tracked and _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # only looks
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
