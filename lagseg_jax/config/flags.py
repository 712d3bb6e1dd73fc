"""Parses the command line of the commands that take a config, and prints their help."""

import difflib
import traceback
from collections.abc import Callable
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from lagseg_jax.config.choices import ONE_OR_SEVERAL
from lagseg_jax.config.rules import RULES
from lagseg_jax.config.shipped import find_config, make_configs_importable, shipped_configs
from lagseg_jax.config.validate import check_overrides
from lagseg_jax.runtime.commands import example_of
from lagseg_jax.runtime.errors import InputError

# What absl and ml_collections raise for what they cannot take.
_OF_FLAGS = (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError)


def parse_flags(
    arguments: list[str],
    define: Callable[[flags.FlagValues], None],
    stored: Callable[[Path], ml_collections.ConfigDict] | None = None,
) -> flags.FlagValues:
    """The command line, with `config`, `workdir`, `help` and the command's own flags.

    Args:
        arguments: the name of the program, then its arguments.
        define: adds the command's own flags.
        stored: reads the config of the run in a workdir, which counts where `--config` is left
            out; its fields, too, can be changed.

    Raises:
        InputError: an unknown flag or field (with the nearest name), or a value of a wrong type.
    """
    make_configs_importable()
    arguments = [_as_literal(argument) for argument in _with_shipped_config(arguments)]
    plain = [a for a in arguments if not a.startswith("--config.")]
    try:
        values = _flags(plain, define)
        config = values.config
        if config is None and stored is not None and values.workdir and not values.help:
            config = stored(Path(values.workdir))
        if config is not None:
            check_overrides(arguments, config)
            values = _flags(arguments, define, None if values.config is not None else config)
    except InputError:
        raise
    except Exception as error:
        if where := _place_in_config(error, arguments):
            raise InputError(where) from None
        if isinstance(error, _OF_FLAGS):
            raise InputError(str(error)) from None
        raise
    return values


def _place_in_config(error: BaseException | None, arguments: list[str]) -> str:
    """File, line and problem, where a config file itself raised the error; else ""."""
    given = {Path(a.removeprefix("--config=").partition(":")[0]).absolute() for a in arguments}
    while error is not None:
        places = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError):
            places.append((error.filename or "", error.lineno))
        for file, line in reversed(places):
            if Path(file).absolute() in given:
                return (
                    f"{file}, line {line}: {type(error).__name__}: {getattr(error, 'msg', error)}"
                )
        error = error.__cause__ or error.__context__
    return ""


def flags_help(name: str, details: str, values: flags.FlagValues) -> str:
    """The text of --help.

    Args:
        name: of the command.
        details: the docstring of its module.
        values: from `parse_flags`; flags with a `module_name` that is a title stand below it.
    """
    groups: dict[str, list[flags.Flag]] = {"config and run": []}
    for module, found in values.flags_by_module_dict().items():
        groups.setdefault(module if " " in module else "config and run", []).extend(found)
    text = f"{details}\nFields of the config: {shipped_configs() / 'default.py'}\n"
    for title, members in groups.items():
        text += f"\n{title}:\n"
        for flag in members:
            default = "" if flag.default in (None, False, []) else f" (default: {flag.default})"
            line = f"--{flag.name}  {flag.help}{default}"
            text += flags.text_wrap(line, 100, "      ", "  ") + "\n"
    return f"{text}\nExample: {example_of(name)}"


def _with_shipped_config(arguments: list[str]) -> list[str]:
    """The same arguments, the config named by the path of its file."""
    found, following = [], False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if following:
            argument = find_config("--config", argument)
        elif name in ("--config", "-config") and equals:
            argument = f"--config={find_config('--config', value)}"
        following = argument in ("--config", "-config")
        found.append(argument)
    return found


def _as_literal(argument: str) -> str:
    """Quotes the text of a field that may also be a tuple: a folder called 2018 is no number."""
    field, equals, value = argument.partition("=")
    name = field.removeprefix("--config.")
    if name not in ONE_OR_SEVERAL or name in ("data.label_value", field) or not equals:
        return argument
    return argument if value[:1] in ("(", "[", "'", '"') else f"{field}={value!r}"


def _flags(
    arguments: list[str],
    define: Callable[[flags.FlagValues], None],
    stored: ml_collections.ConfigDict | None = None,
) -> flags.FlagValues:
    values = flags.FlagValues()
    about = (
        "Experiment config, e.g. configs/giant.py; --config.SECTION.FIELD=VALUE changes a field."
    )
    if stored is None:
        config_flags.DEFINE_config_file(
            "config", None, about, values, lock_config=True, sys_argv=arguments
        )
    else:
        config_flags.DEFINE_config_dict("config", stored, about, values, sys_argv=arguments)
    flags.DEFINE_string("workdir", None, "Folder of the results; the same one resumes.", values)
    flags.DEFINE_boolean("help", False, "Print this.", values, short_name="h")
    define(values)
    try:
        rest = values(arguments)[1:]
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        raise InputError(f"--{name} is not a flag{_nearest_flag(name, values)}") from None
    if rest:
        raise InputError(f"{rest[0]!r} is not a flag, expected --config, --workdir and others")
    return values


def _nearest_flag(name: str, values: flags.FlagValues) -> str:
    """The flag that is meant, or the field of the config: `epochs` is `config.train.epochs`."""
    meant = {field.rpartition(".")[2]: f"config.{field}" for field in reversed(RULES)}
    meant |= {flag: flag for flag in values}
    nearest = difflib.get_close_matches(name, meant, n=1, cutoff=0.7)
    return f", did you mean --{meant[nearest[0]]}?" if nearest else ""
