"""Lists the commands (`python -m lagseg_jax`), or runs one of them (`lagseg predict ...`)."""

import importlib
import sys

from lagseg_jax.runtime.ahead import left
from lagseg_jax.runtime.commands import COMMANDS, module_of
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.errors import InputError, nearest_name


def list_commands() -> str:
    """One line for each command."""
    lines = [f"  {name:14}{command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Left atrium segmentation in cardiac MRI (arXiv 2502.06615); research use only.",
            "",
            "usage: lagseg COMMAND [OPTION]..., the same as python -m lagseg_jax.COMMAND",
            "",
            *lines,
            "",
            "lagseg COMMAND --help says more about each.",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that the first argument names; returns its exit status.

    Raises:
        InputError: there is no such command.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(list_commands())
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        raise InputError(f"{command!r} is not a command{nearest_name(command, COMMANDS)}")
    sys.argv = [f"lagseg {command}", *arguments[1:]]
    return importlib.import_module(module_of(command)).main()


def console_script() -> int:
    """The entry point of `lagseg`."""
    continues = sys.argv[1:2] in (["main"], ["study"]) or "--resume" in sys.argv
    return left(exit_status(main, continues))


if __name__ == "__main__":
    sys.exit(console_script())
