"""Measures what each form of the model is worth, beside the plain one: ViT-S at 448 pixels.

    python -m benchmarks.parts

Encoder, and decoder with its gradients, for batches of 4 in bfloat16; the two forms take turns. On
a CPU the process keeps its freed memory, as the training does.
"""

import functools
import sys

import jax.numpy as jnp

from benchmarks.common.machine import versions
from benchmarks.common.timing import in_turn, measure, summary
from benchmarks.speed.forms import decoder_pairs, encoder_pairs
from lagseg_jax.model.decoder import Decoder
from lagseg_jax.runtime.host import tune


def main() -> int:
    """Prints the table."""
    print(tune(), versions())
    of_paper = Decoder((8, 4, 2, 1), (256, 128, 64, 32, 16), dtype=jnp.bfloat16)
    pairs = encoder_pairs(jnp.bfloat16, 448, 4) | decoder_pairs(of_paper, 448, 4)
    print("| ms | plain | ours | plain / ours |\n|---|---|---|---|")
    for what, calls in pairs.items():
        sides = {side: functools.partial(measure, call) for side, call in zip("ab", calls)}
        timings = in_turn(sides, rounds=4, seconds=0.5)
        a, b = (1e3 * summary(timings[side])["median"] for side in "ab")
        print(f"| {what} | {a:.1f} | {b:.1f} | {a / b:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
