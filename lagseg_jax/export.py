"""Exports a run as one file to deploy: python -m lagseg_jax.export --workdir=RUN --output=FILE.

The file is a safetensors file: the weights of encoder and head, the whole inference function from
grey slices to probability as StableHLO for CPU, CUDA and TPU under the name `stablehlo`, and a card
(JSON) in its metadata. It is read without this package, by jax, flatbuffers and safetensors;
nothing is unpickled:

    import json
    import jax, jax.export, numpy as np
    from safetensors import safe_open

    with safe_open("atrium.safetensors", "numpy") as file:
        card = json.loads(file.metadata()["card"])
        weights = {name: file.get_tensor(name) for name in file.keys()}
    function = jax.export.deserialize(bytearray(weights.pop("stablehlo")))
    weights, predict = jax.device_put(weights), jax.jit(function.call)
    # Without padding: the values that fill an edge of the volume (Z, H, W), of 8 voxels and more.
    edges = [edge for a in range(3) for edge in
             np.moveaxis(volume, a, -1)[[0, 0, -1, -1], [0, -1, 0, -1]]]
    padding = [edge[0] for edge in edges if len(edge) >= 8 and edge.min() == edge.max()]
    measured = volume[~np.isin(volume, padding)]
    how = card["input"]  # a window of stored units, or percentiles
    grey = np.float32(how["window"] or np.percentile(measured, how["clip_percentiles"]))
    probability = predict(weights, slices, grey)  # (b, h, w) float32, any b, h and w
"""

import argparse
import sys
from pathlib import Path

from lagseg_jax.inference.export import write_model
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.commands import command_parser
from lagseg_jax.runtime.console import exit_status, log, log_to_console
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import check_writable


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = command_parser("export", "The file is read without this package.")
    add = parser.add_argument_group("model and file").add_argument
    add("--workdir", required=True, help="folder of a training run")
    add("-o", "--output", required=True, help="the file, name.safetensors")
    add("--weights", help="folder of the encoder weights, if they were moved")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Exports; returns the exit status."""
    options = parse_arguments(arguments)
    log_to_console()
    workdir, path = Path(options.workdir), Path(options.output)
    if path.suffix != ".safetensors" or path.is_dir():
        raise InputError(f"--output is {path}, expected a file name that ends in .safetensors")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path.absolute().parent} does not exist, expected a folder for the file")
    check_writable(path.absolute().parent, "an --output in a folder that can")
    read_config(workdir)  # refused before jax is loaded
    from lagseg_jax.inference.load_segmenter import load_segmenter

    segmenter = load_segmenter(workdir, options.weights)
    card = write_model(segmenter, workdir, path)
    log.info(
        "%s: %.1f MB, for %s; encoder %s",
        *(
            path,
            path.stat().st_size / 1e6,
            ", ".join(card["platforms"]),
            card["encoder"]["weights"],
        ),
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
