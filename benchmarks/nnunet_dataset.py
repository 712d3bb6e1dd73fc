r"""Writes a dataset and its split for nnU-Net, so that it trains and predicts on our cases.

    python -m benchmarks.nnunet_dataset --data=DATASET --split=runs/cpu/splits.json \
        --output=nnUNet_raw/Dataset501_LeftAtrium

Training and validation cases become imagesTr and labelsTr (`splits_final.json` says which is which,
as fold 0), test cases imagesTs, whose labels nnU-Net never sees. Everything as .nii.gz, voxels and
geometry unchanged, the atrium 1.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from lagseg_jax.data.layouts import detect
from lagseg_jax.data.split import read_split
from lagseg_jax.imaging.labels import LabelRule, read_image_and_label
from lagseg_jax.imaging.volume import write_mask, write_voxels
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import write_json


def main(arguments: list[str] | None = None) -> int:
    """Writes the folder; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nnunet_dataset", description=__doc__.split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", required=True, help="dataset folder")
    add("--split", required=True, type=Path, help="splits.json of one of our runs")
    add("--output", required=True, type=Path, help="folder that does not exist yet")
    add("--label_value", type=int, help="of the atrium (default: the only non-zero value)")
    options = parser.parse_args(arguments)
    cases = {case.name: case for case in detect(options.data).cases}
    split = read_split(options.split, list(cases.values()))
    output = options.output
    rule = LabelRule(options.label_value or 0, option="--label_")
    if output.exists():
        raise InputError(f"{output} is there, expected the name of a new folder")
    for part, names in split.items():
        images = output / ("imagesTs" if part == "test" else "imagesTr")
        images.mkdir(parents=True, exist_ok=True)
        (output / "labelsTr").mkdir(exist_ok=True)
        for name in names:
            case = cases[name]
            image, label = read_image_and_label(case.image, case.label, rule)
            write_voxels(images / f"{name}_0000.nii.gz", image.array, image)
            if part != "test":
                atrium = (label.array > 0).astype(np.uint8)
                write_mask(output / "labelsTr" / f"{name}.nii.gz", atrium, image)
    fold = {"train": split["train"], "val": split["validation"]}
    write_json(output / "splits_final.json", [fold])
    description = {
        "channel_names": {"0": "LGE"},
        "labels": {"background": 0, "atrium": 1},
        "numTraining": len(split["train"]) + len(split["validation"]),
        "file_ending": ".nii.gz",
    }
    write_json(output / "dataset.json", description)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
