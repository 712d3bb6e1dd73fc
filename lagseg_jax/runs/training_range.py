"""Records what the training cases look like, and tells a case that looks like none of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json, write_json

RANGE = "training_range.json"
FIELD = "field_mm"  # see `slices.field_mm`
POSITIVE, TINY = ("volume_ml", "brightness", "roughness", FIELD), 1e-6
LEAST_SD = {FIELD: 0.05}  # of the logarithm: many scans of one protocol have just one size
FEWEST = 3  # training cases, of which a range can be told
OUTSIDE = 0.01  # part of the cases like those of the training that is called unlike, by each number


def write_training_range(workdir: Path, cases: Iterable[Mapping[str, float]]) -> None:
    """Records numbers of the training cases, such as those of `appearance`, each as a list."""
    found: dict[str, list[float]] = {}
    for case in cases:
        for name, value in case.items():
            found.setdefault(name, []).append(value)
    write_json(workdir / RANGE, found)


def read_training_range(workdir: Path) -> dict[str, list[float]]:
    """The numbers of the training cases; none where no training has recorded them.

    Raises:
        InputError: the record is damaged.
    """
    path = Path(workdir) / RANGE
    if not path.exists():
        return {}
    expected = "what the training cases look like"
    found = read_json(path, expected)
    for name, values in found.items():
        if not isinstance(values, list) or not all(map(_is_number, values)):
            raise InputError(f"{path} cannot be read (no numbers in {name}), expected {expected}")
    return found


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e9  # never true for NaN


def unlike_training(case: Mapping[str, float], trained: Mapping[str, Iterable[float]]) -> list[str]:
    """Which numbers of a case lie outside those of the training cases.

    The range is the prediction interval of a further case, mean -+ t SD sqrt(1 + 1/n) with t of
    n - 1 degrees of freedom, wide where there are few training cases; of fewer than `FEWEST`
    nothing is told. Of `POSITIVE` numbers it is that of their logarithms; no SD is taken to be less
    than `LEAST_SD`.

    Args:
        case: its numbers.
        trained: of the training cases, by the same names; others do not count.
    """
    outside = []
    for name, value in case.items():
        known = np.array(list(trained.get(name, ())))
        if known.size < FEWEST:
            continue
        if name in POSITIVE:
            value, known = math.log(max(value, TINY)), np.log(np.maximum(known, TINY))
        far = stdtrit(known.size - 1, 1 - OUTSIDE / 2) * math.sqrt(1 + 1 / known.size)
        if abs(value - known.mean()) > far * max(known.std(ddof=1), LEAST_SD.get(name, 0.0)):
            outside.append(name)
    return outside


def unlike_field(size: float, trained: Mapping[str, Sequence[float]]) -> str:
    """What is to be said of a field of view in mm that is outside those of the training; or ""."""
    if not unlike_training({FIELD: size}, trained):
        return ""
    known = trained[FIELD]
    return (
        f"a field of view of {size:.0f} mm, where those of the training have {min(known):.0f} to "
        f"{max(known):.0f} mm; the model sees a heart of another size"
    )
