"""what went wrong -> one sentence for the user, and a non-zero exit."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one sentence that names the file (or the option), what was found and what was
    expected. Every command line entry prints it as `error: ...` and exits with status 2; library
    callers get it as an ordinary `ValueError`.
    """


class TrainingError(RuntimeError):
    """Training cannot go on, for a reason that is not in the input; exit status 1."""


class Interrupted(KeyboardInterrupt):
    """Stopped by SIGTERM or Ctrl-C, with all finished work saved; exit status 75.

    75 is EX_TEMPFAIL of sysexits.h ("try again later"): the same command continues.
    """
