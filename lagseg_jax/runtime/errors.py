"""The exceptions that become one sentence for the user and a non-zero exit status."""

import difflib
from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one sentence that names the file (or the option), what was found and what was
    expected. Every command line entry prints it as `error: ...` and exits with status 2; library
    callers get it as an ordinary `ValueError`.
    """


class TrainingError(RuntimeError):
    """Training cannot go on, for a reason that is not in the input; exit status 1."""


class Interrupted(KeyboardInterrupt):
    """Stopped by SIGTERM, SIGHUP or Ctrl-C, with all finished work saved.

    Where the same command continues, the exit status is 75, EX_TEMPFAIL of sysexits.h ("try again
    later"); otherwise 128 and the number of the signal, as shells have it.
    """

    def __init__(self, sentence: str, status: int = 75):
        super().__init__(sentence + "; the same command continues" * (status == 75))
        self.status = status


def one_of(field: str, value: object, names: Sequence) -> None:
    """Raises InputError, with the nearest name, unless the value is one of the names."""
    if value not in names:
        listed = ", ".join(str(name) for name in names)
        raise InputError(
            f"{field} is {value!r}, expected one of {listed}{nearest_name(str(value), names, 0.5)}"
        )


def nearest_name(name: str, names: Iterable[str], cutoff: float = 0.0) -> str:
    """ ", did you mean NAME?" for the nearest of the names that is near enough."""
    nearest = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return f", did you mean {nearest[0]}?" if nearest else ""
