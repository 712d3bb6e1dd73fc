"""Finds what was measured of the estimates of a run, of an ensemble, or of mirrored predictions.

The first run's workdir keeps it: `uncertainty.json` of the run as it is evaluated, further files of
ensembles and of `--tta`, named by what they were measured with, so that no other model finds them.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from lagseg_jax.inference.postprocess import PostProcessing
from lagseg_jax.inference.records import run_identity
from lagseg_jax.inference.uncertainty import Uncertainty
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json

UNCERTAINTY = "uncertainty.json"


def record_path(workdirs: Sequence[str | Path], tta: bool) -> Path:
    """Where it is kept; another file once a run of several is trained on or read otherwise.

    Args:
        workdirs: of the runs of an ensemble, of which the first one's `config.predict` counts.
        tta: whether mirrorings are averaged.

    Raises:
        InputError: a folder is not a run.
    """
    first = Path(workdirs[0])
    if len(workdirs) == 1 and not tta:
        return first / UNCERTAINTY
    runs = [run_identity(Path(workdir))["sha256"] for workdir in workdirs]
    post = PostProcessing.of(read_config(first).predict).fields()
    made_with = json.dumps([runs[0], sorted(runs[1:]), bool(tta), post], sort_keys=True)
    key = hashlib.sha256(made_with.encode()).hexdigest()[:16]
    return first / f"uncertainty-{key}.json"


def read_uncertainty(path: Path) -> Uncertainty | None:
    """The content of such a file; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    if not path.is_file():
        return None
    expected = "the uncertainty that an evaluation measures"
    content = read_json(path, expected)
    found = {field.name: content.get(field.name) for field in dataclasses.fields(Uncertainty)}
    # No more than a float holds.
    whole = all(type(found[name]) is int and 0 < found[name] < 2**53 for name in ("step", "cases"))
    for name, lowest, most in (("shift", -50.0, 50.0), ("volume_error", 0.0, 1e6)):
        number = isinstance(found[name], int | float) and not isinstance(found[name], bool)
        whole = whole and number and lowest <= found[name] <= most
    if not whole:
        raise InputError(f"{path} cannot be read (numbers that cannot be), expected {expected}")
    return Uncertainty(**found)
