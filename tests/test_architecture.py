"""The subpackages: imports run one way, and nothing imports a command."""

import ast
from pathlib import Path

import lagseg_jax

PACKAGE = Path(lagseg_jax.__file__).parent
SUBPACKAGES = "runtime imaging config runs data model training inference evaluation reports".split()


def module_of(path):
    """The name of a module below the package, such as `data.layouts.detect`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {module_of(path) for path in PACKAGE.rglob("*.py")}


def imports_of(path):
    """The package's modules that a file imports, at the top or late."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lagseg_jax":
            module = node.module.partition(".")[2]
            for alias in node.names:
                below = f"{module}.{alias.name}".lstrip(".")
                yield below if below in MODULES else module or alias.name


def test_imports_run_one_way_and_nothing_imports_a_command():
    for number, name in enumerate(SUBPACKAGES):
        for path in (PACKAGE / name).rglob("*.py"):
            used = {module.split(".")[0] for module in imports_of(path)}
            wrong = used - set(SUBPACKAGES[: number + 1])
            assert not wrong, f"{path} imports {wrong}, expected only {SUBPACKAGES[: number + 1]}"
    for path in PACKAGE.glob("*.py"):
        wrong = {module.split(".")[0] for module in imports_of(path)} - set(SUBPACKAGES)
        assert not wrong or path.name == "__init__.py", f"{path} imports {wrong}"


def test_no_subpackage_has_a_cycle():
    for part in SUBPACKAGES:
        files = list((PACKAGE / part).rglob("*.py"))
        graph = {module_of(f): set(imports_of(f)) - {module_of(f)} for f in files}
        while graph:
            leaves = {name for name, needs in graph.items() if not needs & set(graph)}
            assert leaves, f"these files of {part} import each other: {sorted(graph)}"
            graph = {name: needs for name, needs in graph.items() if name not in leaves}


def test_the_package_shows_its_subpackages_and_commands_and_nothing_else():
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert {name for name in entries if not name.endswith(".py")} == {*SUBPACKAGES, "py.typed"}


def test_a_file_and_a_function_fit_on_what_can_be_read_at_once():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and "configs" not in path.parts:
                assert node.end_lineno - node.lineno < 50, f"{path}: {node.name}"
