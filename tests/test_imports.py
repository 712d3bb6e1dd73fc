"""Imports run one way, and the library's docstring names every file."""

import ast
from pathlib import Path

import lagseg_jax

PACKAGE = Path(lagseg_jax.__file__).parent


def imports_of(path):
    """The package's own modules that a file imports, at the top or late."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lagseg_jax."):
            yield node.module.split(".")[1]


def test_imports_run_one_way():
    graph = {f.stem: set(imports_of(f)) for f in PACKAGE.glob("*.py") if f.stem != "__init__"}
    while graph:
        leaves = {name for name, needs in graph.items() if not needs & set(graph)}
        assert leaves, f"these files import each other: {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in leaves}


def test_nothing_imports_the_command_lines():
    for path in PACKAGE.glob("*.py"):
        assert not set(imports_of(path)) & {"main", "predict"}, path.name


def test_every_file_stands_in_the_data_flow_and_opens_with_it():
    for path in PACKAGE.glob("*.py"):
        if path.stem != "__init__":
            first = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
            assert "->" in first, f"{path.name} does not open with input -> output: {first}"
            assert path.stem in lagseg_jax.__doc__, path.name
