"""Says what each command is for and how it is called, for the list of commands and every --help."""

import argparse
from typing import NamedTuple, NoReturn

from lagseg_jax.runtime.console import printable


class Command(NamedTuple):
    """What a command is for, and arguments that it could get."""

    about: str
    arguments: str


COMMANDS = {
    "info": Command("what is installed: configs, dataset layouts, weights, caches", "--json"),
    "check": Command("all problems of a dataset, before any training", "DATASET"),
    "convert": Command(
        "published DINOv2 weights into the form that configs name, once",
        "--input=facebook/dinov2-base --output=weights/base",
    ),
    "main": Command(
        "train and evaluate; with --mode=evaluate evaluate again",
        "--config=configs/base.py --workdir=runs/base --config.data.root=DATASET "
        "--config.encoder.weights=weights/base",
    ),
    "evaluate": Command(
        "any other labelled dataset judged with a finished run",
        "--workdir=runs/base --data=OTHER_DATASET",
    ),
    "predict": Command(
        "masks, volumes, surfaces and pictures of new scans",
        "--workdir=runs/base --input=FOLDER --output=masks",
    ),
    "report": Command("the HTML report of an evaluation, written again", "runs/base"),
    "compare": Command(
        "masks of several tools against references, with paired tests", "DATASET masks other_masks"
    ),
    "calibrate": Command(
        "how far probabilities can be trusted; which threshold is best", "runs/base"
    ),
    "study": Command(
        "several trainings that differ in some fields: one table, one plot",
        "--study=configs/ablations/blocks.py --config=configs/base.py --workdir=runs/blocks "
        "--config.data.root=DATASET",
    ),
    "export": Command(
        "a trained model as one file that runs without this package",
        "--workdir=runs/base --output=atrium.safetensors",
    ),
    "export_nnunet": Command(
        "the cases and the split of a run as a dataset for nnU-Net",
        "--workdir=runs/base --output=nnUNet_raw/Dataset501_LeftAtrium",
    ),
}


def module_of(name: str) -> str:
    """The module that `python -m` runs for a command."""
    return "weight_conversion.convert" if name == "convert" else f"lagseg_jax.{name}"


def example_of(name: str) -> str:
    """A command line."""
    return f"python -m {module_of(name)} {COMMANDS[name].arguments}"


class _Parser(argparse.ArgumentParser):
    """Says what it cannot take so that a terminal can take it."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def command_parser(name: str, more: str = "") -> argparse.ArgumentParser:
    """A parser whose --help says what the command is for, and ends with an example.

    Args:
        name: of the command.
        more: what else its user has to know.
    """
    about = COMMANDS[name].about
    return _Parser(
        prog=f"python -m {module_of(name)}",
        description=f"{about[0].upper()}{about[1:]}. {more}".strip(),
        epilog=f"Example: {example_of(name)}",
    )
