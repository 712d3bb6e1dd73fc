"""What one of two processes does in a test: python -m tests.helpers.pod_worker WHAT ...

The last arguments are those that launch/local_pod.sh adds.
"""

import argparse
import itertools
import os
import signal
import sys
import time
from pathlib import Path

from lagseg_jax.runtime import processes
from lagseg_jax.runtime.console import exit_status, log, log_to_console
from lagseg_jax.runtime.errors import InputError


def meet():
    """Shares, gathers, and work of the first process alone."""
    index, count = processes.process()
    mine = processes.share(range(7))
    assert processes.allgather([index, float("nan")])[1 - index][0] == 1 - index
    made = []
    processes.once(made.append, index)
    log.info("info of %d", index)
    log.warning("of %d processes, %d has %s and made %s", count, index, mine, made)


def wait_in_a_collective(fail):
    """Process 1 fails while process 0 waits for it on the devices."""
    import jax
    import numpy as np

    add = jax.pmap(lambda x: jax.lax.psum(x, "devices"), "devices")
    ones = np.ones((jax.local_device_count(), 3))
    assert add(ones)[0, 0] == jax.device_count()
    if processes.process()[0] == 1:
        fail()
    jax.block_until_ready(add(ones))
    time.sleep(60)


def bad_file():
    raise InputError("/data/scan.nii.gz has 0 bytes, expected a volume file")


def bug():
    raise ZeroDivisionError("a bug")


def train(root, workdir, steps, failing, step):
    """The tiny run, whose process `failing` cannot read the batch of one step."""
    from lagseg_jax.data.batches import TrainingBatches
    from tests.helpers import tiny_run

    following, count = TrainingBatches.__next__, itertools.count(1)

    def next_or_fail(batches):
        if next(count) == int(step) and processes.process()[0] == int(failing):
            bad_file()
        return following(batches)

    TrainingBatches.__next__ = next_or_fail
    every = {"evaluate_every": 5, "checkpoint_every": 5}
    tiny_run.run(Path(workdir), Path(root), steps=int(steps), **every)


def features(root, workdir):
    """Two steps of the tiny run with cached features; says how many cases this process encoded."""
    from lagseg_jax.training import token_cache
    from tests.helpers import tiny_run

    write, written = token_cache._write_tokens, []

    def noted(path, *arguments):
        written.append(path)
        write(path, *arguments)

    token_cache._write_tokens = noted
    config = tiny_run.config(Path(root), steps=2, cache_features=True)
    config.augment.update({name: 0.0 for name in config.augment})
    tiny_run.main.run(config, Path(workdir), "train")
    log.warning("process %d encoded %d cases", processes.process()[0], len(written))


WHAT = {
    "features": features,
    "train": train,
    "meet": meet,
    "bad_file": lambda: wait_in_a_collective(bad_file),
    "bug": lambda: wait_in_a_collective(bug),
    "kill": lambda: wait_in_a_collective(lambda: os.kill(os.getpid(), signal.SIGKILL)),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what")
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--coordinator_address")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    options = parser.parse_args()
    log_to_console()
    processes.LEAVE_SECONDS = 3
    who = options.coordinator_address, options.num_processes, options.process_id
    with processes.joined(*who):
        WHAT[options.what](*options.arguments)


if __name__ == "__main__":
    sys.exit(exit_status(main))
