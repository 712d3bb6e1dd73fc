"""Finds the configs that come with the package, in a checkout and where it is installed."""

import importlib.util
import re
import sys
from pathlib import Path

import lagseg_jax
from lagseg_jax.runtime.errors import InputError, nearest_name


def shipped_configs() -> Path:
    """The folder `configs`: in an installed package inside it, in a checkout beside it."""
    package = Path(lagseg_jax.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(option: str, value: str) -> str:
    """The file that the value of an option names, a config or a study.

    Args:
        option: its name, for the message.
        value: a path; or, where there is no such file, a shipped file by its name: `giant`,
            `configs/giant.py`, `ablations/blocks`. What follows a colon is handed on.

    Returns:
        The path as the user wrote it if there is such a file, else that of the shipped one.

    Raises:
        InputError: there is neither.
    """
    path, colon, rest = value.partition(":")
    if Path(path).is_file():
        return value
    folder = shipped_configs()
    name = path.removeprefix("configs/").removesuffix(".py")
    if (folder / f"{name}.py").is_file():
        return f"{folder / name}.py{colon}{rest}"
    studies = option == "--study"
    files = sorted((folder / "ablations" if studies else folder).glob("[a-z]*.py"))
    names = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    about = {n: file.read_text("utf-8").partition("\n")[0].lower() for n, file in zip(names, files)}
    meant = [n for n in names if re.search(rf"\b{re.escape(name.lower())}\b", about[n])]
    hint = f", did you mean {meant[0]}?" if len(meant) == 1 else nearest_name(name, names, 0.5)
    raise InputError(
        f"{option} is {path!r}, which is no file and not one of {', '.join(names)}{hint}"
    )


def make_configs_importable() -> None:
    """Lets a shipped config say `from configs import default` wherever the command is run.

    A checkout is met in the current folder. Elsewhere `configs` is bound to the shipped folder,
    so that the package need not install a module of so common a name.
    """
    if "configs" in sys.modules or Path("configs/default.py").is_file():
        return
    folder = shipped_configs()
    spec = importlib.util.spec_from_file_location(
        "configs", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["configs"] = module
    spec.loader.exec_module(module)
