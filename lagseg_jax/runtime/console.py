"""What commands say on the terminal, how they end, and work in threads with progress."""

import concurrent.futures
import contextlib
import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from lagseg_jax.runtime.errors import InputError, Interrupted, TrainingError
from lagseg_jax.runtime.signals import handled
from lagseg_jax.runtime.trace import command

log = logging.getLogger("lagseg_jax")

SILENT_SECONDS = 60.0  # nothing is silent for longer
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # no fault of what the user gave
# Control characters would move the cursor, or more; what is not UTF-8 cannot be printed.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


def count_of(count: int, what: str) -> str:
    """Number and noun: 1 case, 2 cases, 2 processes, 2 studies."""
    stem, end = (what[:-1], "ies") if what.endswith("y") else (what, "es" * what.endswith("s"))
    plural = stem + (end or "s")
    return f"{count} {what if count == 1 else plural}"


def printable(text: str) -> str:
    """Text from files and their names as a terminal can take it, escapes written out."""
    return text.encode("utf-8", "backslashreplace").decode().translate(_CONTROLS)


def say(*lines: str) -> None:
    """Prints the result of a command on standard output, a line each."""
    print(*map(printable, lines), sep="\n")


def say_error(sentence: str) -> None:
    """Prints a sentence on standard error, in one line."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # it may go to a disk that is full, or nowhere
            print(printable(" ".join(sentence.split())), file=sys.stderr, flush=True)


class _Lines(logging.Formatter):
    """Plain lines; a warning is called one here, as handlers of other programs do it, too."""

    def __init__(self, prefix: str):
        super().__init__()
        self._prefix = prefix

    def formatMessage(self, record: logging.LogRecord) -> str:
        word = "WARNING: " if record.levelno == logging.WARNING else ""
        return f"{self._prefix}{word}{record.message}"


class _Console(logging.Handler):
    """Prints plain lines without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # In one piece: several processes may write to the same terminal or file.
            if sys.stderr is not None:
                tqdm.write(f"{printable(self.format(record))}\n", file=sys.stderr, end="")
        except OSError:  # standard error may go to a disk that is full, or nowhere
            pass


def log_to_console(process: int = 0) -> None:
    """Sends what the package reports to standard error; called by the command lines only.

    Of several processes, those after the first report warnings and errors only, with their number.
    """
    log.setLevel(logging.WARNING if process else logging.INFO)
    log.propagate = False
    if not log.handlers:
        log.addHandler(_Console())
    prefix = f"[process {process}] " if process else ""
    log.handlers[0].setFormatter(_Lines(prefix))
    # Orbax warns about options that it sets itself; what goes wrong reaches us as exceptions.
    logging.getLogger("absl").setLevel(logging.ERROR)


@contextlib.contextmanager
def errors_only(name: str) -> Iterator[None]:
    """Holds back the warnings of a library's logger for as long as the block lasts."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def exit_status(main: Callable[[], int | None], continues: bool = False) -> int:
    """Runs a command: what goes wrong becomes one sentence on standard error.

    Args:
        main: the command.
        continues: whether the same command continues after a signal.

    Returns:
        The exit status: that of `main`; 2 for what the user gave, files and folders included; 1 for
        a training that cannot go on or a full disk; after a signal see `Interrupted`.
    """
    _occupy_standard_streams()
    try:
        with command(), handled(continues):
            status = main() or 0
            if sys.stdout is not None:
                sys.stdout.flush()
            return status
    except InputError as error:
        say_error(f"error: {error}")
        return 2
    except TrainingError as error:
        say_error(f"error: {error}")
        return 1
    except Interrupted as error:
        say_error(str(error))
        return error.status
    except BrokenPipeError:  # what reads our output (`| head`) has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        names = [
            os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None
        ]
        where = f"{' -> '.join(names)}: " if names else ""
        say_error(f"error: {where}{error.strerror or error}")
        return 1 if is_full(error) else 2


def is_full(error: BaseException) -> bool:
    """Whether an error is that of a full or broken disk."""
    return isinstance(error, OSError) and error.errno in FULL


def _occupy_standard_streams() -> None:
    """Opens what was closed (`2>&-`): else the next file would get what libraries print there."""
    with contextlib.suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)


class Watchdog:
    """Says `still ... after 60 s` whenever that long has passed since it was told what goes on."""

    def __init__(self, what: str):
        self._done = threading.Event()
        self.tell(what)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def tell(self, what: str) -> None:
        """Names what has just begun."""
        self._what, self._start = what, time.monotonic()

    def _watch(self) -> None:
        reminded = 0.0
        while not self._done.wait(SILENT_SECONDS / 10):
            now = time.monotonic()
            if now - max(self._start, reminded) >= SILENT_SECONDS:
                reminded = now
                log.warning("still %s after %.0f s", self._what, now - self._start)

    def close(self) -> None:
        """Ends its thread."""
        self._done.set()
        self._thread.join()


@contextlib.contextmanager
def still(what: str) -> Iterator[None]:
    """Says `still ... after 60 s` for as long as the block lasts longer than that."""
    watchdog = Watchdog(what)
    try:
        yield
    finally:
        watchdog.close()


class Progress:
    """A progress bar with ETA on a terminal; elsewhere a plain line now and then.

    The first step is left out of the ETA, since it may have compiled what the others reuse.

    Args:
        what: the label.
        total: steps in all.
        done: steps done before.
        every_seconds: between plain lines.
    """

    def __init__(self, what: str, total: int, done: int = 0, every_seconds: float = 20.0):
        terminal = sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
        self._what, self._every, self._terminal = what, every_seconds, terminal
        # Without smoothing, the ETA is by the mean of all steps that count.
        self._bar = tqdm(
            desc=what,
            total=total,
            initial=done,
            disable=not terminal,
            dynamic_ncols=True,
            smoothing=0,
        )
        self._total, self._done, self._first = total, done, done
        self._said = self._last = time.monotonic()
        self._seconds, self._timed = 0.0, 0

    def advance(self, note: dict[str, str] | None = None, compiled: bool = False) -> None:
        """One more step.

        Args:
            note: goes beside the bar.
            compiled: leaves the step out of the ETA, like the first one.
        """
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        if compiled or self._done == self._first:
            self._leave_out(seconds)
        else:
            self._seconds, self._timed = self._seconds + seconds, self._timed + 1
        self._done += 1
        self._bar.update()
        if note:
            self._bar.set_postfix(note)
        if not self._terminal and (now - self._said > self._every or self._done == self._total):
            self._said = now
            notes = "".join(f", {k} {v}" for k, v in (note or {}).items())
            log.info("%s %d/%d%s%s", self._what, self._done, self._total, self._speed(), notes)

    def _leave_out(self, seconds: float) -> None:
        if self._terminal:
            self._bar.initial += 1
            self._bar.start_t += seconds

    def _speed(self) -> str:
        if not self._timed:
            return ""
        seconds = self._seconds / self._timed
        left = tqdm.format_interval(seconds * (self._total - self._done))
        return f", {seconds:.2f} s each, ETA {left}"

    def close(self) -> None:
        """Leaves the bar on the screen."""
        self._bar.close()


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    what: str, function: Callable[[Item], Result], items: Sequence[Item]
) -> list[Result]:
    """Calls the function on every item; the first error, or Ctrl-C, ends it and is raised.

    Threads, because what takes time here (gzip, NumPy) leaves Python's lock alone, and because
    there are then no workers that could die unnoticed.

    Args:
        what: label of the progress bar.
        function: called from several threads at a time.
        items: its arguments.
    """
    if not items:
        return []
    progress = Progress(what, len(items))
    workers = min(8, os.cpu_count() or 1)
    with still(what), concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                progress.advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            progress.close()
    return [future.result() for future in futures]
