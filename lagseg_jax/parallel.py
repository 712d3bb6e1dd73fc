"""function + items -> its results in order, worked out in threads, with progress."""

import concurrent.futures
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from lagseg_jax.logs import Progress, still

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
