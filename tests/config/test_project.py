"""The settings of the project name what exists."""

import re
import tomllib
from pathlib import Path

import pytest

import lagseg_jax

ROOT = Path(lagseg_jax.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_what_the_short_run_of_the_suite_leaves_out_exists():
    text = (ROOT / ".ci" / "run").read_text()
    left_out = " ".join(re.findall(r"slow\+?=\((.*?)\)", text)).split()
    assert left_out and "tests/%s" in text
    assert [name for name in left_out if not (ROOT / "tests" / name).exists()] == []


def test_types_are_asked_for_but_of_packages_that_have_none():
    assert "ignore_missing_imports" not in PROJECT["tool"]["mypy"]
    (untyped,) = [o for o in PROJECT["tool"]["mypy"]["overrides"] if "ignore_missing_imports" in o]
    sources = [p for folder in ("lagseg_jax", "configs") for p in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text() for path in sources)
    for module in untyped["module"]:
        name = module.removesuffix(".*")
        assert name not in ("lagseg_jax", "weight_conversion", "configs")
        assert re.search(rf"^\s*(import|from) {name}\b", code, re.MULTILINE), name


@pytest.mark.parametrize("folder", ["lagseg_jax", "weight_conversion", "configs"])
def test_every_folder_with_code_is_packaged(folder):
    """The wheel is built from a list of packages."""
    settings = PROJECT["tool"]["setuptools"]
    places = {package: package.replace(".", "/") for package in settings["packages"]}
    moved = settings["package-dir"]
    for package, place in places.items():
        for start, target in moved.items():
            if package == start or package.startswith(f"{start}."):
                place = package.replace(start, target).replace(".", "/")
        places[package] = place
    folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}
    assert folders <= set(places.values())
