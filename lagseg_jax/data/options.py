"""The options with which commands name the files and the cases of datasets."""

import argparse
import ast
from collections.abc import Callable

from lagseg_jax.imaging.formats import MAX_BYTES
from lagseg_jax.imaging.labels import parse_values


def add_naming(add: Callable) -> None:
    """--images and --labels, as `config.data.images` and `config.data.labels`."""
    add(
        "--images",
        default="",
        metavar="PATTERN",
        type=one_or_several,
        help="names of the images, such as '*_image.nii.gz', or a CSV "
        "image,label[,case][,patient][,part] (default: recognised); ('A','B') for two datasets",
    )
    add(
        "--labels",
        default="",
        metavar="PATTERN",
        type=one_or_several,
        help="of their labels, such as '*_mask.nii.gz'",
    )


def add_selection(add: Callable) -> None:
    """--cases and --exclude, as `config.data.cases` and `config.data.exclude`."""
    name = {"action": "append", "default": [], "metavar": "NAME"}
    add("--cases", help="only these, or those of patterns: P7,'P01_*'; repeatable", **name)
    add("--exclude", help="without these, or those of patterns; repeatable", **name)


def add_label_rule(add: Callable, name: str = "label", of: str = "") -> None:
    """--NAME_value and --NAME_threshold, as `config.data.label_value` and its threshold."""
    about = f"of the atrium{of}, or several, which are merged: 1,2 (default: the only one)"
    add(f"--{name}_value", type=label_values, default=0, metavar="VALUE", help=about)
    about = "the atrium is at least this (default: one value)"
    add(f"--{name}_threshold", type=float, default=0.0, metavar="VALUE", help=about)


def add_reading(add: Callable) -> None:
    """--max_gb and --orientation, as `config.data.max_gb` and `config.data.orientation`."""
    add(
        "--max_gb",
        type=float,
        metavar="GB",
        default=MAX_BYTES / 1e9,
        help="largest decoded size of one file (default: %(default)g)",
    )
    add(
        "--orientation",
        default="",
        help="of files that do not say it: sides the axes grow to, such as LPS; or sform, qform",
    )


def one_or_several(text: str) -> str | tuple[str, ...]:
    """The type of an option for datasets: FOLDER, NAME=FOLDER, or several as ('A','B=FOLDER').

    Patterns, one for each dataset, are written in the same way.
    """
    if not text.startswith("("):
        return text
    try:
        several = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text  # a folder may be called so
    return tuple(map(str, several)) if isinstance(several, tuple) else text


def label_values(text: str) -> int | tuple[int, ...]:
    """The type of --label_value: 420, or several, which are merged, as 1,2."""
    try:
        return parse_values(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected a whole number, or several above 0 such as 1,2"
        ) from None
