"""The wheel, installed by itself and used from an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lagseg_jax
from lagseg_jax.runtime.commands import COMMANDS, module_of

ROOT = Path(lagseg_jax.__file__).parent.parent
# One process answers for all commands: --help before jax is asked for anything.
HELP = """
import contextlib, importlib, io, sys
import lagseg_jax
assert lagseg_jax.__file__.startswith(sys.argv[1]), lagseg_jax.__file__
for name in sys.argv[2:]:
    module, said, status = importlib.import_module(name), io.StringIO(), None
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(said):
        try:
            status = module.main()
        except SystemExit as stop:
            status = stop.code
    print(name, status or 0, len(said.getvalue()) > 200)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that holds the installed wheel and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # A copy: building leaves folders beside the sources.
    sources = folder / "sources"
    sources.mkdir()
    for name in ("lagseg_jax", "weight_conversion", "configs", "README.md", "LICENSE"):
        (sources / name).symlink_to(ROOT / name)
    (sources / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *build, str(sources)], check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    target = folder / "installed"
    install = ["install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([*pip, *install], check=True, timeout=120)
    return target


def run(installed, empty, *command):
    """A command with the installed wheel, in an empty folder."""
    return subprocess.run(
        command,
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def module(installed, empty, *arguments):
    """`python -m` of the installed wheel."""
    return run(installed, empty, sys.executable, "-m", *arguments)


def test_it_holds_the_package_and_nothing_else(installed):
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names == {"bin", "lagseg_jax", "weight_conversion"}
    for part in ("lagseg_jax", "weight_conversion"):
        shipped = {p.relative_to(installed / part) for p in (installed / part).rglob("*.*")}
        sources = {p.relative_to(ROOT / part) for p in (ROOT / part).rglob("*.*")}
        assert {p for p in sources if p.suffix != ".pyc"} <= shipped
    configs = {p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.py")}
    assert all((installed / "lagseg_jax" / "configs" / path).is_file() for path in configs)


def test_every_command_answers(installed, tmp_path):
    names = [module_of(name) for name in COMMANDS]
    done = run(installed, tmp_path, sys.executable, "-c", HELP, str(installed), *names)
    lines = done.stdout.splitlines()
    assert lines == [f"{name} 0 True" for name in names], done.stderr
    listed = module(installed, tmp_path, "lagseg_jax")
    assert listed.returncode == 0 and all(f"  {name} " in listed.stdout for name in COMMANDS)
    script = run(installed, tmp_path, str(installed / "bin" / "lagseg"), "info", "--json")
    assert script.returncode == 0 and '"configs/giant.py"' in script.stdout, script.stderr


@pytest.mark.parametrize("config", ["giant", "configs/giant.py", "giant.py"])
def test_configs_are_found_by_name(installed, tmp_path, config):
    """The config is read, and refused for what it lacks: a dataset."""
    command = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    done = module(installed, tmp_path, "lagseg_jax.main", *command)
    assert done.returncode == 2 and "config.data.root is empty" in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


def test_a_study_and_its_config_are_found_by_name(installed, tmp_path):
    command = ["--study=ablations/blocks", "--config", "small", f"--workdir={tmp_path / 'study'}"]
    done = module(installed, tmp_path, "lagseg_jax.study", *command)
    assert done.returncode == 2, done.stderr
    assert "arm last_block: config.data.root is empty" in done.stderr


def test_a_config_that_is_nowhere_is_named_with_the_nearest(installed, tmp_path):
    command = ["--config=gaint", f"--workdir={tmp_path / 'run'}"]
    done = module(installed, tmp_path, "lagseg_jax.main", *command)
    assert done.returncode == 2 and done.stderr.endswith(", did you mean giant?\n"), done.stderr
