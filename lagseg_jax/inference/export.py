"""Writes a trained model as one file: its weights, and its inference function as StableHLO."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from lagseg_jax.config.validate import as_tuple
from lagseg_jax.data.split import PARTS
from lagseg_jax.inference.segmenter import Segmenter
from lagseg_jax.inference.slice_probability import Resampling, decode, encode
from lagseg_jax.inference.uncertainty import LEVEL
from lagseg_jax.inference.uncertainty_record import UNCERTAINTY, read_uncertainty
from lagseg_jax.runtime.devices import params_hash
from lagseg_jax.runtime.files import read_json, written_atomically

PLATFORMS = ("cpu", "cuda", "tpu")


def flat_weights(segmenter: Segmenter) -> dict[str, jax.Array]:
    """The parameters of encoder and head under names such as `encoder/norm/scale`."""
    tree = {"encoder": segmenter.encoder.params, "head": segmenter.head_params}
    return flatten_dict(tree, sep="/")


def export_function(segmenter: Segmenter) -> jax.export.Exported:
    """The inference function for every slice size, compiled by JAX where and when it is called.

    It takes `weights`, those of `flat_weights`; `slices` (b, h, w) float32, grey values as stored,
    rows from anterior to posterior, columns from the patient's right to his left; and `grey` (2,)
    float32, the values that become 0 and 1. It returns the probability (b, h, w), float32.
    """
    image_size = segmenter.config.data.image_size
    # The other forms are for one platform only.
    encoder = segmenter.model.encoder.clone(form="plain")
    model = dataclasses.replace(segmenter.model, encoder=encoder)

    def predict(weights: dict, slices: jax.Array, grey: jax.Array) -> jax.Array:
        params = unflatten_dict(weights, sep="/")
        _, height, width = slices.shape
        how = Resampling(*traced_matrices(height, width, image_size), grey)
        images, fused = encode(model, params["encoder"], params["head"], slices, how, None)
        return decode(model, params["head"], images, fused, how, None)

    weights = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in flat_weights(segmenter).items()
    }
    slices = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, h, w"), jnp.float32)
    grey = jax.ShapeDtypeStruct((2,), jnp.float32)
    return jax.export.export(jax.jit(predict), platforms=PLATFORMS)(weights, slices, grey)


def traced_matrices(height: int, width: int, image_size: int) -> tuple[list, list]:
    """`slices.resize_matrices` and `restore_matrices` in JAX, for sizes known only when called.

    The triangle kernel of `interpolation.linear_matrix` from n to m pixels has, at output pixel i
    and input pixel p, the height `1 - |(2 p + 1) m - (2 i + 1) n| / (2 max(m, n))`: integers until
    the division, so that float32 is enough.
    """

    def kernel(outputs: jax.Array, inputs: jax.Array, m: Any, n: Any) -> jax.Array:
        distance = jnp.abs((2 * inputs[None] + 1) * m - (2 * outputs[:, None] + 1) * n)
        return jnp.maximum(0, 1 - distance / (2 * jnp.maximum(m, n)))

    pixels = jnp.arange(image_size)
    side = jnp.maximum(height, width)
    there, back = [], []
    for length in (height, width):
        window = (side - length) // 2 + jnp.arange(length)  # of the slice in its square
        # The square's own pixels are not an array of known shape: more of them, and a condition.
        square = jnp.arange(height + width)
        weights = jnp.where(square < side, kernel(pixels, square, image_size, side), 0)
        rows = kernel(pixels, window, image_size, side) / weights.sum(1, keepdims=True)
        there.append(rows)
        rows = kernel(window, pixels, side, image_size)
        back.append(rows / rows.sum(1, keepdims=True))
    return there, back


PROGRAM = "stablehlo"
INTENDED_USE = (
    "Research on the left atrium in late gadolinium-enhanced MRI. Not a medical device: not for "
    "diagnosis or treatment. Slices whose field of view or contrast differ from the training data "
    "may be segmented wrongly without any sign of it."
)


def write_model(segmenter: Segmenter, workdir: Path, path: Path) -> dict:
    """Writes the file, complete or not at all; returns its card.

    The weights pass through the host's memory once, as a whole.
    """
    exported = export_function(segmenter)
    program = bytes(exported.serialize())
    card = model_card(segmenter, workdir) | {
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
        "stablehlo_sha256": hashlib.sha256(program).hexdigest(),
    }
    tensors = {name: np.asarray(array) for name, array in flat_weights(segmenter).items()}
    tensors[PROGRAM] = np.frombuffer(program, np.uint8)
    with written_atomically(path) as temporary:
        save_file(tensors, temporary, {"card": json.dumps(card)})
    return card


def model_card(segmenter: Segmenter, workdir: Path) -> dict:
    """What a program and its reader must know to use the function; JSON-serialisable."""
    config, post = segmenter.config, segmenter.postprocessing
    return {
        "name": "left atrium segmentation in LGE-MRI (arXiv 2502.06615)",
        "intended_use": INTENDED_USE,
        "input": {
            "slices": "float32 (b, h, w), grey values as stored, any b, h and w; rows from "
            "anterior to posterior, columns from the patient's right to left, cut across the "
            "through-plane axis (the plane of the training slices is `plane`)",
            "plane": list(segmenter.planes),
            "grey": "float32 (2,), `window` where it has values, else the percentiles "
            "`clip_percentiles` of the whole volume without padding, the values that fill one of "
            "its 12 edges (of 8 voxels and more); they must differ",
            "clip_percentiles": list(config.data.clip_percentiles),
            "window": list(config.data.window),
        },
        "inside": {
            "preprocessing": "clipped and scaled to 0..1, padded to a square, resized linearly",
            "image_size": config.data.image_size,
            "postprocessing": "probability resized linearly to the slices' own pixels",
        },
        "output": {
            "probability": "float32 (b, h, w) of left atrium",
            "smooth_mm": post.smooth_mm,
            "smooth_mm_meaning": "standard deviation in mm of a Gaussian across the slices, on the "
            "probability before the threshold; 0: none",
            "threshold": post.threshold,
            "components": post.components,
            "components_meaning": "connected components of the volume to keep, largest first, "
            "26-neighbourhood; 0: all",
        },
        "training": {
            "data": ", ".join(Path(root).name for root in as_tuple(config.data.root)),
            "cases": _counts(workdir),
            "step": segmenter.step,
            "config": config.to_dict(),
        },
        "evaluation": _evaluation(workdir),
        "uncertainty": _uncertainty(workdir, segmenter.step),
        "encoder": segmenter.encoder.report(),
        "head_sha256": params_hash(segmenter.head_params),
        "jax_version": jax.__version__,
    }


def _uncertainty(workdir: Path, step: int) -> dict | None:
    """What estimates need beside the probability; None where no evaluation of this step did it."""
    found = read_uncertainty(workdir / UNCERTAINTY)
    if found is None or found.step != step:
        return None
    meaning = {
        "stability": "2 b / (a + b): a voxels of probability 0.3 and more, b voxels of the mask of "
        "0.7 and more, for a threshold of 0.5; else its odds times 3/7 and 7/3",
        "estimated_dice": "odds(stability) exp(shift), as a share",
        "volume_interval": "volume of the mask times exp(-+ t volume_error (1 - stability)), t of "
        f"{LEVEL:.0%} and `cases` degrees of freedom",
    }
    return {**dataclasses.asdict(found), "meaning": meaning}


def _counts(workdir: Path) -> dict[str, int] | None:
    path = workdir / "splits.json"
    if not path.is_file():
        return None
    split = read_json(path, "the split of a run")
    return {part: len(split[part]) for part in PARTS if isinstance(split.get(part), list)}


def _evaluation(workdir: Path) -> dict | None:
    path = workdir / "evaluation" / "summary.json"
    if not path.is_file():
        return None
    summary = read_json(path, "what an evaluation writes")
    names = ("n_cases", "dice", "iou", "hd95_mm", "assd_mm", "step")
    return {name: summary.get(name) for name in names}
