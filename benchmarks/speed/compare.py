"""By how much the outputs (.npz) of two workers differ, and whether that is too much."""

from pathlib import Path

import numpy as np

# Largest difference over largest value, by kind; gradients: norm of the difference over norm.
# Wide enough for TF32 in the convolutions, which both frameworks use on GPUs.
TOLERANCES = {
    "float32": {
        "tokens": 1e-4,
        "loss": 1e-3,
        "logits": 5e-3,
        "probability": 5e-3,
        "gradient": 2e-2,
    },
    "bfloat16": {
        "tokens": 5e-2,
        "loss": 1e-2,
        "logits": 5e-2,
        "probability": 5e-2,
        "gradient": 0.2,
    },
}


def differences(ours: Path, theirs: Path) -> dict[str, float]:
    """The relative difference of every array; names are a kind, or "gradient/" and a parameter.

    Raises:
        ValueError: another set of arrays, or another shape.
    """
    found = {}
    with np.load(ours) as a, np.load(theirs) as b:
        if set(a) != set(b):
            raise ValueError(f"one side has the outputs {sorted(set(a) ^ set(b))} alone")
        for name in a:
            x, y = a[name].astype(np.float64).ravel(), b[name].astype(np.float64).ravel()
            if x.shape != y.shape:
                raise ValueError(f"{name} has {x.size} and {y.size} values")
            # Gradients as vectors: single entries may be nearly 0.
            size = np.linalg.norm if kind(name) == "gradient" else lambda v: np.abs(v).max()
            found[name] = float(size(x - y) / size(y))
    return found


def too_large(found: dict[str, float], dtype: str) -> list[str]:
    """The arrays that differ by more than the tolerance; NaN is too much."""
    return [name for name, d in found.items() if not d <= TOLERANCES[dtype][kind(name)]]


def by_kind(found: dict[str, float]) -> dict[str, float]:
    """The largest difference of each kind; a NaN stays."""
    groups = {}
    for name, difference in found.items():
        groups.setdefault(kind(name), []).append(difference)
    return {name: float(np.max(group)) for name, group in groups.items()}


def kind(name: str) -> str:
    """What stands before the first "/"."""
    return name.partition("/")[0]
