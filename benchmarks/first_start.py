"""workdir + volume -> seconds of a command's first start and of its second."""

import os
import subprocess
import time
from pathlib import Path

from benchmarks.worker import ROOT


def two_starts(python: str, folder: Path, timeout: float) -> list[dict]:
    """Runs `python -m lagseg_jax.predict` twice with an empty compilation cache of its own.

    Nothing is set but where the user's caches lie, so the second start is what users see.

    Args:
        python: interpreter.
        folder: with `run/` and `volume.nii.gz` of `scaling.write_run`.
        timeout: of each, in seconds.

    Raises:
        RuntimeError: the command failed.
    """
    environment = {"CUDA_VISIBLE_DEVICES": "0"} | os.environ
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    found = []
    for name in ("first", "second"):
        command = [python, "-m", "lagseg_jax.predict", f"--workdir={folder / 'run'}"]
        command += ["-i", str(folder / "volume.nii.gz"), "-o", str(folder / name)]
        start = time.perf_counter()
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(str(error)) from None
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"lagseg_jax.predict failed: {done.stderr.strip()[-200:]}")
        found.append(
            {"what": f"{name} start of predict, one volume", "value": seconds, "unit": "s"}
        )
    return found
