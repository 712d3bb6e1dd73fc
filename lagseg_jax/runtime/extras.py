"""Says how to install an optional part of the package, where something needs one that is absent."""

import tomllib
from pathlib import Path

NAME = "lagseg_jax"


def install_command(extra: str) -> str:
    """The command that installs an extra: in a checkout `pip install '.[hub]'`."""
    return f"`pip install '{_package()}[{extra}]'`"


def _package() -> str:
    """What pip takes for this package: the current folder, its own checkout, or its name."""
    checkout = Path(__file__).parents[2]
    if _is_checkout(Path()):
        return "."
    return str(checkout) if _is_checkout(checkout) else NAME


def _is_checkout(folder: Path) -> bool:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
        return project["project"]["name"] == NAME
    except (OSError, ValueError, KeyError, TypeError):
        return False
