"""Writes the cases and the split of a run as a dataset that nnU-Net trains and predicts on."""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ml_collections
import numpy as np

from lagseg_jax.data.cases import Case
from lagseg_jax.evaluation.evaluate import read_labelled
from lagseg_jax.imaging.volume import write_mask, write_voxels
from lagseg_jax.runtime.console import Progress, still
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import short_name, write_json


def check_output(output: Path) -> None:
    """Refuses a folder that is there, or whose name nnU-Net does not take.

    Raises:
        InputError: see above.
    """
    if output.exists() or output.is_symlink():
        raise InputError(f"{output} is there, expected the name of a new folder")
    if not re.fullmatch(r"Dataset\d{3}_\w[\w-]*", output.name):
        raise InputError(
            f"{output.name!r} is the name of the folder, expected one that nnU-Net takes, such as "
            "Dataset501_LeftAtrium"
        )


def export_dataset(
    split: Mapping[str, Sequence[Case]],
    data: ml_collections.ConfigDict,
    output: Path,
    channel: str = "MRI",
) -> None:
    """Writes the folder, complete or not at all.

    Training and validation cases become imagesTr and labelsTr (`splits_final.json` says which is
    which, as fold 0), test cases imagesTs, whose labels nnU-Net never sees. Everything is .nii.gz,
    voxels and geometry unchanged, the atrium 1.

    Args:
        split: {"train": cases, "validation": cases, "test": cases}.
        data: `config.data`, which says how images and labels are read.
        output: folder that does not exist yet.
        channel: what nnU-Net calls the images; "CT" gets its normalisation of CT.

    Raises:
        InputError: `check_output`, or a file cannot be used.
    """
    check_output(output)
    with _new_folder(output) as folder:
        progress = Progress("writing cases", sum(map(len, split.values())))
        for part, cases in split.items():
            for case in cases:
                with still(f"writing {case.name}"):
                    _write_case(case, data, folder, "Ts" if part == "test" else "Tr")
                progress.advance()
        progress.close()
        names = {part: [short_name(case.name) for case in cases] for part, cases in split.items()}
        fold = {"train": names["train"], "val": names["validation"]}
        write_json(folder / "splits_final.json", [fold])
        description = {
            "channel_names": {"0": channel},
            "labels": {"background": 0, "atrium": 1},
            "numTraining": len(fold["train"]) + len(fold["val"]),
            "file_ending": ".nii.gz",
        }
        write_json(folder / "dataset.json", description)


def _write_case(case: Case, data: ml_collections.ConfigDict, folder: Path, part: str) -> None:
    image, label = read_labelled(case, data)
    for kind in ("images", "labels") if part == "Tr" else ("images",):
        (folder / f"{kind}{part}").mkdir(exist_ok=True)
    name = short_name(case.name)
    write_voxels(folder / f"images{part}" / f"{name}_0000.nii.gz", image.array, image)
    if part == "Tr":
        atrium = (label.array > 0).astype(np.uint8)
        write_mask(folder / "labelsTr" / f"{name}.nii.gz", atrium, image)


@contextlib.contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Yields a hidden folder beside `output`, which gets its name after the block."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's folders are for their owner only
        check_output(output)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
