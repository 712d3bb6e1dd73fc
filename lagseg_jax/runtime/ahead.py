"""Begins work in threads before its result is asked for, and leaves it behind when a command ends.

Only work that changes nothing may be begun so, such as compiling.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_threads = ThreadPoolExecutor(2, thread_name_prefix="ahead")
_at_work: set[Future] = set()


def ahead(function: Callable, *arguments: Any) -> Future:
    """Begins to call the function; the future gives what it returns, or raises what it raises."""
    future = _threads.submit(function, *arguments)
    _at_work.add(future)
    future.add_done_callback(_at_work.discard)  # it holds the result as long as it is known
    return future


def left(status: int) -> int:
    """The exit status of a command that has ended; exits at once where threads still work for it.

    A compiler cannot be stopped: Python would wait for it, half a minute after a dataset was
    refused, and a daemon thread's would crash while the process ends.
    """
    if _at_work:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)
    return status
