"""The tiny config as a command line in a process of its own: what the fault scripts start."""

import multiprocessing
import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "helpers"), str(TESTS.parent)]

import tiny_run
from configs import default
from pod import FAST_COMPILATION


def arguments(workdir, root, **train):
    """Of `python -m lagseg_jax.main`: the tiny config, whatever of it is not the default."""
    changed, plain = tiny_run.config(root, **train), default.get_config()
    fields = [
        f"--config.{section}.{name}={value}"
        for section, content in changed.items()
        if hasattr(content, "items")
        for name, value in content.items()
        if value != plain[section][name]
    ]
    return [f"--config={TESTS.parent}/configs/default.py", f"--workdir={workdir}", *fields]


def launcher(folder):
    """The function that starts the command: (workdir, root, log, ...) -> a process.

    Imports are made once, in a server that has no devices and is forked for each start.
    """
    os.environ["XLA_FLAGS"] = FAST_COMPILATION  # one device
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder) / "xla")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["lagseg_jax.main", "lagseg_jax.training.loop", "lagseg_jax.evaluation.evaluate"]
    )

    def start(workdir, root, log, **train):
        process = context.Process(target=_run, args=(arguments(workdir, root, **train), str(log)))
        process.start()
        return process

    return start


def _run(line, log):
    from lagseg_jax import main
    from lagseg_jax.runtime.console import exit_status

    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.exit(exit_status(lambda: main.main(line)))


def ended(process):
    """Waits for the process; its exit status."""
    process.join()
    return process.exitcode
