"""Measures what each form of the model's parts is worth, beside the plain one.

    python -m benchmarks.parts

The two take turns. On a CPU the process keeps its freed memory, as the training does.
"""

import functools
import sys

from benchmarks.common.machine import versions
from benchmarks.common.timing import in_turn, measure, summary
from benchmarks.speed.forms import decoder_pairs, encoder_pairs, layer_pairs
from lagseg_jax.runtime.host import tune


def main() -> int:
    """Prints the table."""
    print(tune(), versions())
    pairs = encoder_pairs() | decoder_pairs() | layer_pairs()
    print("| ms | plain | ours | plain / ours |\n|---|---|---|---|")
    for what, calls in pairs.items():
        sides = {side: functools.partial(measure, call) for side, call in zip("ab", calls)}
        timings = in_turn(sides, rounds=4, seconds=0.5)
        a, b = (1e3 * summary(timings[side])["median"] for side in "ab")
        print(f"| {what} | {a:.1f} | {b:.1f} | {a / b:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
