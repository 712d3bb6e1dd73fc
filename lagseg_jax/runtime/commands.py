"""Says what each command is for and how it is called, for the list of commands and every --help."""

import argparse
import sys
from typing import NamedTuple, NoReturn

from lagseg_jax.runtime.errors import InputError, nearest_name


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
    """Says what it cannot take in one sentence, an unknown option with the nearest name."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        known = self._option_string_actions
        for argument in sys.argv[1:] if args is None else args:
            name = argument.partition("=")[0]
            if name == "--":
                break
            # Before what is missing is named: it may be missing because of the typo.
            if name.startswith("--") and not any(option.startswith(name) for option in known):
                raise InputError(f"{name} is not an option{nearest_name(name, known, 0.5)}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help lists all options")


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
