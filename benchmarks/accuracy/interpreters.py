"""Checks, before hours of training, that the arms' interpreters have the packages they need."""

import argparse
import subprocess
from collections.abc import Iterable

from benchmarks.accuracy.arms import NNUNET, OURS, UNET, Arm
from lagseg_jax.runtime.errors import InputError

# Of each method: the option that names its interpreter, and the package that it trains with.
NEEDED = {
    OURS: ("python", "jax"),
    UNET: ("peer_python", "torch"),
    NNUNET: ("nnunet_python", "nnunetv2"),
}
NNUNET_SERIES, NNUNET_TRIED = "2.", "2.8.1"
ASK = """
import importlib.metadata, sys
try:
    print("version", importlib.metadata.version(sys.argv[1]))
except importlib.metadata.PackageNotFoundError:
    print("absent", sys.version.split()[0])
"""


def check_interpreters(options: argparse.Namespace, arms: Iterable[Arm]) -> None:
    """Asks the interpreter of every method among the arms.

    Raises:
        InputError: one cannot be started or lacks its package, or nnU-Net is not of version 2.
    """
    for method in dict.fromkeys(arm.method for arm in arms):
        option, package = NEEDED[method]
        python = getattr(options, option)
        given = f"--{option} is {python}"
        version = _version(python, package, given)
        if method == NNUNET and not version.startswith(NNUNET_SERIES):
            raise InputError(
                f"{given}, with {package} {version}, expected one with {package} 2 "
                f"({NNUNET_TRIED} is the version that was tried)"
            )


def _version(python: str, package: str, given: str) -> str:
    expected = f"expected an interpreter that has {package}"
    expected += ", or --no_peer" * (package == NEEDED[UNET][1])
    try:
        command = [python, "-c", ASK, package]
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or "no answer within 120 s"
        raise InputError(f"{given}, which cannot be started ({reason}), {expected}") from None
    word, _, version = told.stdout.strip().partition(" ")
    if word == "absent":
        raise InputError(f"{given}, Python {version} without {package}, {expected}")
    if word != "version":
        said = " ".join(told.stderr.strip().splitlines()[-1:])[:200]
        raise InputError(f"{given}, which answered nothing ({said}), {expected}")
    return version
