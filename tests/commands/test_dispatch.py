"""`lagseg COMMAND`, the list of commands, and library modules that are run by mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

import lagseg_jax
from lagseg_jax import __main__ as dispatch
from lagseg_jax.runtime.console import exit_status

PACKAGE = Path(lagseg_jax.__file__).parent


def test_it_lists_every_command_that_there_is(capsys):
    commands = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert set(dispatch.COMMANDS) == commands | {"convert"}
    assert dispatch.main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in dispatch.COMMANDS)


def test_a_command_gets_its_arguments_and_gives_its_status(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lagseg"])
    assert dispatch.main(["info", "--json"]) == 0
    assert '"configs"' in capsys.readouterr().out
    assert exit_status(lambda: dispatch.main(["check", "/nowhere"])) == 2


def test_an_unknown_command_is_one_sentence(capsys):
    assert exit_status(lambda: dispatch.main(["predit"])) == 2
    assert capsys.readouterr().err == "error: 'predit' is not a command, did you mean predict?\n"


@pytest.mark.parametrize("arguments", [["-m", "{}"], ["-X", "utf8", "-m{}", "--config=x", "-m"]])
def test_a_library_module_is_no_command(arguments):
    rooms = [path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]
    assert len(rooms) == 10
    for room in rooms:
        modules = sorted(path.stem for path in room.glob("[a-z]*.py"))
        for name in (f"lagseg_jax.{room.name}", f"lagseg_jax.{room.name}.{modules[0]}"):
            line = [argument.format(name) for argument in arguments]
            done = subprocess.run([sys.executable, *line], capture_output=True, text=True)
            assert done.returncode == 2 and not done.stdout
            assert done.stderr.startswith(f"error: {name} is a part of the library and no command")
