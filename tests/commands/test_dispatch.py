"""`lagseg COMMAND`, lists and helps of the commands, library modules that are run by mistake."""

import contextlib
import gc
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import lagseg_jax
from lagseg_jax import __main__ as dispatch
from lagseg_jax.config.flags import parse_flags
from lagseg_jax.runtime.commands import COMMANDS, example_of, module_of
from lagseg_jax.runtime.console import exit_status

PACKAGE = Path(lagseg_jax.__file__).parent


def test_it_lists_every_command_that_there_is(capsys):
    commands = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert set(COMMANDS) == commands | {"convert"}
    assert dispatch.main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in COMMANDS)


def test_a_command_gets_its_arguments_and_gives_its_status(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lagseg"])
    assert dispatch.main(["info", "--json"]) == 0
    assert '"configs"' in capsys.readouterr().out
    assert exit_status(lambda: dispatch.main(["check", "/nowhere"])) == 2


def test_an_unknown_command_is_one_sentence(capsys):
    assert exit_status(lambda: dispatch.main(["predit"])) == 2
    assert capsys.readouterr().err == "error: 'predit' is not a command, did you mean predict?\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_groups_and_an_example(name, capsys):
    """But for --help itself, every option stands below a title."""
    with contextlib.suppress(SystemExit):
        assert importlib.import_module(module_of(name)).main(["--help"]) == 0
    out = capsys.readouterr().out
    assert f"Example: {example_of(name)}" in " ".join(out.split())
    alone = re.search(r"^options:\n(.*?)\n\n", out, re.MULTILINE | re.DOTALL)
    assert alone is None or re.findall(r"--\w+", alone[1]) == ["--help"]
    assert len(re.findall(r"^[a-z].*:$", out, re.MULTILINE)) > (alone is not None)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_one_sentence_with_the_nearest_one(name, capsys):
    module = importlib.import_module(module_of(name))
    assert exit_status(lambda: module.main(["--hepl=x"])) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: --hepl is not an? (flag|option), did you mean --help\?\n", said)


def test_the_example_of_each_command_parses():
    for name in ("main", "study"):
        module = importlib.import_module(module_of(name))
        values = parse_flags([name, *shlex.split(COMMANDS[name].arguments)], module.define_flags)
        assert values.workdir and values.config.encoder.variant == "base"
    for name in ("predict", "check", "compare", "calibrate", "evaluate", "export", "export_nnunet"):
        module = importlib.import_module(module_of(name))
        assert module.parse_arguments(shlex.split(COMMANDS[name].arguments))


ROOMS = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()]


@pytest.mark.parametrize("room", ROOMS)
def test_library_modules_refuse_to_be_run(room, monkeypatch, capsys):
    """As Python imports the package while it looks for the module after -m."""
    modules = [f"{room}.{path.stem}" for path in (PACKAGE / room).glob("[a-z]*.py")]
    assert modules
    monkeypatch.setattr(sys, "argv", ["-m", "--config=x", "-m"])
    for name in (room, *modules):
        for given in (["-m", f"lagseg_jax.{name}"], [f"-mlagseg_jax.{name}"]):
            line = [sys.executable, "-X", "utf8", *given, "--config=x", "-m"]
            monkeypatch.setattr(sys, "orig_argv", line)
            with pytest.raises(SystemExit) as stop:
                lagseg_jax._refuse_to_run_library_modules()
            found = capsys.readouterr()
            assert stop.value.code == 2 and not found.out
            assert found.err.startswith(f"error: lagseg_jax.{name} is a part of the library and no")


@pytest.mark.parametrize("name", ["lagseg_jax", "pytest", "benchmarks", *map(module_of, COMMANDS)])
def test_commands_and_other_packages_are_run(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["-m", "lagseg_jax.training"])
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", name, "lagseg_jax.training"])
    lagseg_jax._refuse_to_run_library_modules()


@pytest.mark.parametrize("name", ["lagseg_jax.training.loop", "lagseg_jax.training"])
def test_the_refusal_is_what_python_runs(name):
    done = subprocess.run([sys.executable, "-m", name], capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {name} is a part of the library and no command")


@pytest.mark.parametrize(
    ("started", "given", "found"),
    [
        ("-m", None, "1"),
        ("/usr/bin/lagseg", None, "1"),
        ("-m", "3", "3"),  # what the user says has precedence
        ("/home/me/notebook.py", None, None),
    ],
)
def test_commands_leave_the_cores_to_our_threads(started, given, found, monkeypatch):
    environment = {} if given is None else {"OPENBLAS_NUM_THREADS": given}
    monkeypatch.setattr(lagseg_jax.os, "environ", environment)
    monkeypatch.setattr(sys, "argv", [started, "predict"])
    lagseg_jax._leave_the_cores_to_our_threads()
    assert environment.get("OPENBLAS_NUM_THREADS") == found


@pytest.mark.parametrize(("started", "seldom"), [("-m", True), ("/home/me/notebook.py", False)])
def test_commands_look_for_garbage_seldom(started, seldom, monkeypatch):
    at_exit = []
    monkeypatch.setattr(lagseg_jax.atexit, "register", at_exit.append)
    monkeypatch.setattr(sys, "argv", [started, "predict"])
    before = gc.get_threshold()
    try:
        gc.set_threshold(700)
        lagseg_jax._collect_seldom()
        assert (gc.get_threshold()[0] > 7000) == seldom
        assert gc.isenabled() and at_exit == [gc.freeze] * seldom
    finally:
        gc.set_threshold(*before)


def test_predict_starts_without_what_it_may_not_need():
    """Some of these take as long to load as everything else together."""
    late = {"jax", "matplotlib", "scipy.stats", "scipy.sparse.csgraph"}
    code = f"import sys, lagseg_jax.predict; print(*({late} & set(sys.modules)));"
    code += "import lagseg_jax.inference.load_segmenter; print('optax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\nFalse\n"
