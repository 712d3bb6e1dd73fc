"""Measures how busy `predict` keeps the devices, beside the sum of its parts.

    python -m benchmarks.throughput --workdir=runs/base --input=FOLDER --output=throughput.json

The model is loaded and compiled first. Then each part is timed alone, case after case: reading
(hash, decompression, percentiles), computing (what the devices do, waited for), writing (the mask,
its components, numbers and file). Then `predict` does all cases as ever, parts beside parts. The
share of the devices is the time of computing alone over that of the whole.
"""

import argparse
import contextlib
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import jax

from benchmarks.common.machine import describe, versions
from benchmarks.common.options import benchmark_parser
from benchmarks.common.timing import timed
from lagseg_jax.imaging.volume import write_mask
from lagseg_jax.inference.cases import predict_cases
from lagseg_jax.inference.files import plan_outputs
from lagseg_jax.inference.given import as_volume
from lagseg_jax.inference.input_volume import Input
from lagseg_jax.inference.inputs import find_inputs
from lagseg_jax.inference.load_segmenter import load_segmenter
from lagseg_jax.inference.mask_statistics import mask_statistics
from lagseg_jax.inference.request import Request
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.runtime.files import write_json


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = benchmark_parser("benchmarks.throughput", __doc__)
    add = parser.add_argument
    add("--workdir", required=True, help="of a finished run")
    add("--input", required=True, help="volumes, as for lagseg_jax.predict")
    add("--rounds", type=int, default=1, help="each way, in turns; the fastest round counts")
    add("--output", help="JSON file")
    return parser.parse_args(arguments)


def parts(segmenter: Segmenter, inputs: list[Input], folder: Path) -> dict[str, float]:
    """Seconds of each part over all cases, one part after the other."""
    seconds: dict[str, float] = defaultdict(float)
    post = segmenter.postprocessing
    for one in inputs:
        found = {}

        def read(one: Input = one, found: dict = found) -> None:
            one.content_hash()
            found["volume"] = one.read()
            given = as_volume(found["volume"])
            found["cut"] = segmenter.cut(given.array, given.affine)

        def compute(found: dict = found) -> None:
            found["array"] = segmenter.compute(found["cut"], tta=False, post=post)

        def write(one: Input = one, found: dict = found) -> None:
            mask, _ = segmenter.finish(found["array"], found["volume"].affine, post)
            mask_statistics(mask, found["volume"].affine)
            write_mask(folder / one.mask_name, mask, found["volume"])

        for name, part in (("reading", read), ("computing", compute), ("writing", write)):
            seconds[name] += timed(part)
    return seconds


def whole(segmenter: Segmenter, inputs: list[Input]) -> float:
    """Seconds of `predict_cases` over all cases."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(None):
        jobs = plan_outputs(inputs, Path(folder))
        return timed(lambda: predict_cases(segmenter, jobs, Request([])))


def main(arguments: list[str] | None = None) -> int:
    """Prints the seconds, volumes per second and the share of the devices."""
    options = parse_arguments(arguments)
    segmenter = load_segmenter(options.workdir)
    inputs = find_inputs(Path(options.input))
    wholes, alone = [], []
    with tempfile.TemporaryDirectory() as folder:
        parts(segmenter, inputs, Path(folder))  # compiles
        for _ in range(options.rounds):
            wholes.append(whole(segmenter, inputs))
            alone.append(parts(segmenter, inputs, Path(folder)))
    seconds, best = min(wholes), min(alone, key=lambda some: sum(some.values()))
    row = {
        "volumes": len(inputs),
        "seconds": {name: round(value, 4) for name, value in best.items()},
        "whole_seconds": round(seconds, 4),
        "volumes_per_second": round(len(inputs) / seconds, 4),
        "device_share": round(best["computing"] / seconds, 4),
        "device": jax.devices()[0].device_kind,
    }
    for name, value in best.items():
        print(f"{name:10} {1e3 * value / len(inputs):8.1f} ms per volume, alone")
    print(f"{'sum':10} {1e3 * sum(best.values()) / len(inputs):8.1f} ms per volume")
    print(f"{'predict':10} {1e3 * seconds / len(inputs):8.1f} ms per volume")
    print(f"{row['volumes_per_second']:.3f} volumes/s, devices busy {row['device_share']:.0%}")
    if options.output:
        write_json(Path(options.output), row | {"machine": describe(), "versions": versions()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
