"""workdir -> one file for deployment: python -m lagseg_jax.export --workdir=RUN --output=FILE.

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
    grey = np.percentile(volume, card["input"]["clip_percentiles"]).astype(np.float32)
    probability = predict(weights, slices, grey)  # (b, h, w) float32, any b, h and w
"""

import argparse
import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path

from lagseg_jax.errors import InputError
from lagseg_jax.logs import exit_status, log, log_to_console
from lagseg_jax.workdir import read_config

PROGRAM = "stablehlo"
INTENDED_USE = (
    "Research on the left atrium in late gadolinium-enhanced MRI. Not a medical device: not for "
    "diagnosis or treatment. Slices whose field of view or contrast differ from the training data "
    "may be segmented wrongly without any sign of it."
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m lagseg_jax.export",
        description="Writes a trained model as one file that runs without this package.",
    )
    parser.add_argument("--workdir", required=True, help="folder of a training run")
    parser.add_argument("-o", "--output", required=True, help="the file, name.safetensors")
    parser.add_argument("--weights", help="folder of the encoder weights, if they were moved")
    return parser.parse_args(arguments)


def write_model(segmenter, workdir: Path, path: Path) -> dict:
    """Writes the file, complete or not at all; returns its card.

    The weights pass through the host's memory once, as a whole.
    """
    import numpy as np
    from safetensors.numpy import save_file

    from lagseg_jax.stablehlo import export_function, flat_weights

    exported = export_function(segmenter)
    program = bytes(exported.serialize())
    card = model_card(segmenter, workdir) | {
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
        "stablehlo_sha256": hashlib.sha256(program).hexdigest(),
    }
    tensors = {name: np.asarray(array) for name, array in flat_weights(segmenter).items()}
    tensors[PROGRAM] = np.frombuffer(program, np.uint8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, {"card": json.dumps(card)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return card


def model_card(segmenter, workdir: Path) -> dict:
    """What a program and its reader must know to use the function; JSON-serialisable."""
    import jax

    from lagseg_jax.weights import params_hash

    config = segmenter.config
    return {
        "name": "left atrium segmentation in LGE-MRI (arXiv 2502.06615)",
        "intended_use": INTENDED_USE,
        "input": {
            "slices": "float32 (b, h, w), grey values as stored, any b, h and w; rows from "
            "anterior to posterior, columns from the patient's right to left, cut across the "
            "coarsest axis",
            "grey": "float32 (2,), the percentiles `clip_percentiles` of the whole volume; they "
            "must differ",
            "clip_percentiles": list(config.data.clip_percentiles),
        },
        "inside": {
            "preprocessing": "clipped and scaled to 0..1, padded to a square, resized linearly",
            "image_size": config.data.image_size,
            "postprocessing": "probability resized linearly to the slices' own pixels",
        },
        "output": {
            "probability": "float32 (b, h, w) of left atrium",
            "smooth_mm": config.predict.get("smooth_mm", 0.0),
            "smooth_mm_meaning": "standard deviation in mm of a Gaussian across the slices, on the "
            "probability before the threshold; 0: none",
            "threshold": config.predict.threshold,
            "components": config.predict.components,
            "components_meaning": "connected components of the volume to keep, largest first, "
            "26-neighbourhood; 0: all",
        },
        "training": {
            "data": Path(config.data.root).name,
            "cases": _counts(workdir),
            "step": segmenter.step,
            "config": config.to_dict(),
        },
        "evaluation": _evaluation(workdir),
        "encoder": segmenter.encoder.report(),
        "head_sha256": params_hash(segmenter.head_params),
        "jax_version": jax.__version__,
    }


def _counts(workdir: Path) -> dict[str, int] | None:
    path = workdir / "splits.json"
    if not path.is_file():
        return None
    return {part: len(names) for part, names in json.loads(path.read_text()).items()}


def _evaluation(workdir: Path) -> dict | None:
    path = workdir / "evaluation" / "summary.json"
    if not path.is_file():
        return None
    summary = json.loads(path.read_text())
    return {key: summary[key] for key in ("n_cases", "dice", "iou", "hd95_mm", "assd_mm", "step")}


def main(arguments: list[str] | None = None) -> int:
    """Exports; returns the exit status."""
    options = parse_arguments(arguments)
    log_to_console()
    workdir, path = Path(options.workdir), Path(options.output)
    if path.suffix != ".safetensors" or path.is_dir():
        raise InputError(f"--output is {path}, expected a file name that ends in .safetensors")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path.absolute().parent} does not exist, expected a folder for the file")
    if importlib.util.find_spec("flatbuffers") is None:
        raise InputError(
            "jax.export needs flatbuffers, which is not installed, expected it after "
            "`pip install 'lagseg_jax[export]'`"
        )
    read_config(workdir)  # refused before jax is loaded
    from lagseg_jax.segmenter import load_segmenter

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
