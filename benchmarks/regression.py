"""Says what became slower between two results of `python -m benchmarks`, beyond their noise.

    python -m benchmarks.regression OLD.json NEW.json

Every row of every case as NEW / OLD, with a 95 % bootstrap interval: rounds are drawn, and calls
within them. A row of ours is slower when its whole interval lies above 1 + `--threshold`. Rows of
PyTorch and nnU-Net are a control: where they drift as well, it was the machine. The exit status is
1 when a row of ours is slower, is gone, or was not measured again; 2 when the machines differ.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common.options import benchmark_parser
from benchmarks.speed.run_case import OURS
from lagseg_jax.reports.markdown import plain, table_head, table_row
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_json

MACHINE = ("cpu", "cores", "features")
DRAWS = 2000
Key = tuple[str, str, str]  # case, row, side


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = benchmark_parser("benchmarks.regression", __doc__)
    add = parser.add_argument
    add("old", type=Path, help="JSON of `python -m benchmarks`")
    add("new", type=Path, help="the same, later")
    add(
        "--threshold", type=float, default=0.05, help="slowness that does not count (default: 0.05)"
    )
    add("--other_machine", action="store_true", help="compare although the machines differ")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns 1 when a row of ours is slower or gone."""
    options = parse_arguments(arguments)
    old, new = (_read(path) for path in (options.old, options.new))
    machines = _differences(_machine(old), _machine(new))
    if machines and not options.other_machine:
        raise InputError(
            f"{options.new} is of another machine than {options.old} ({'; '.join(machines)}), "
            "expected the same one, or --other_machine"
        )
    for line in machines + _differences(_versions(old), _versions(new)):
        print(f"- differs: {line}")
    before, after = _rounds(old, options.old), _rounds(new, options.new)
    lines, failed = [], False
    for key in before:
        verdict, cells = _compare(before[key], after.get(key), options.threshold)
        lines.append(table_row([*map(plain, key), *cells, verdict]))
        failed |= key[2] == OURS and verdict in ("slower", "gone")
    head = ["case", "row", "side", "old, ms", "new, ms", "new / old [95 %]", ""]
    print("\n".join([*table_head(head), *lines]))
    return int(failed)


def ratio_interval(
    old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]
) -> tuple[float, float, float]:
    """Ratio of the medians new / old, and its 95 % bootstrap interval.

    Calls of one round resemble each other, so rounds are drawn first, then calls within each.

    Args:
        old: seconds of every call of every round.
        new: the same.
    """
    generator = np.random.default_rng(0)
    a, b = (_medians(rounds, generator) for rounds in (old, new))
    low, high = np.quantile(b / a, (0.025, 0.975))
    ratio = np.median(np.concatenate(new)) / np.median(np.concatenate(old))
    return float(ratio), float(low), float(high)


def _medians(rounds: Sequence[Sequence[float]], generator: np.random.Generator) -> np.ndarray:
    """Of `DRAWS` samples of a row's calls."""
    counts = np.array([len(calls) for calls in rounds])
    most = counts.max()
    seconds = np.array([[*calls, *[0.0] * (most - len(calls))] for calls in rounds])
    chosen = generator.integers(len(rounds), size=(DRAWS, len(rounds), 1))
    drawn = (generator.random((DRAWS, len(rounds), most)) * counts[chosen]).astype(int)
    found = np.where(np.arange(most) < counts[chosen], seconds[chosen, drawn], np.nan)
    return np.nanmedian(found.reshape(DRAWS, -1), axis=1)


def _compare(old, new, threshold: float) -> tuple[str, list[str]]:
    """Verdict and cells of one row; `new` is None where it was not measured again."""
    before = f"{1e3 * np.median(np.concatenate(old)):.4g}"
    if new is None:
        return "gone", [before, "-", "-"]
    ratio, low, high = ratio_interval(old, new)
    verdict = "slower" if low > 1 + threshold else "faster" if high < 1 - threshold else ""
    after = f"{1e3 * np.median(np.concatenate(new)):.4g}"
    return verdict, [before, after, f"{ratio:.3f} [{low:.3f}, {high:.3f}]"]


def _read(path: Path) -> dict:
    content = read_json(path, "a result of python -m benchmarks")
    if not {"machine", "software", "cases"} <= content.keys():
        raise InputError(
            f"{path}: no machine, software and cases found, expected a result of "
            "python -m benchmarks"
        )
    return content


def _machine(result: dict) -> dict[str, object]:
    """What makes timings comparable."""
    found = {name: result["machine"].get(name) for name in MACHINE}
    return found | {side: facts["device"] for side, facts in result["software"].items()}


def _versions(result: dict) -> dict[str, object]:
    """{"side package": version}, and ours as its commit."""
    found = {
        f"{side} {name}": version
        for side, facts in result["software"].items()
        for name, version in facts["versions"].items()
    }
    return {"commit": result["machine"].get("git", "")[:12]} | found


def _differences(old: dict[str, object], new: dict[str, object]) -> list[str]:
    return [
        f"{name} {old[name]}, then {new[name]}"
        for name in old
        if name in new and old[name] != new[name]
    ]


def _rounds(result: dict, path: Path) -> dict[Key, list[list[float]]]:
    """Seconds of every row that was measured."""
    found = {
        (case["title"], row["row"], row["side"]): row["seconds"]["rounds"]
        for case in result["cases"]
        for row in case["rows"]
        if "seconds" in row
    }
    if not found:
        raise InputError(f"{path}: no row was measured, expected some")
    return found


if __name__ == "__main__":
    sys.exit(exit_status(main))
