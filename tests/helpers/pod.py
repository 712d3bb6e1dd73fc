"""Several processes of one command on this machine, as launch/local_pod.sh starts them."""

import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path

FAST_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
# The older emitters compile the same in half the time; a later XLA ends at flags it has no more.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FAST_COMPILATION += " --xla_cpu_use_fusion_emitters=false"
ROOT = Path(__file__).parents[2]


def start(processes: int, *command: str, devices: int = 1, **environment: str) -> subprocess.Popen:
    """Starts `python -m COMMAND` in so many processes, each with so many simulated devices."""
    return subprocess.Popen(
        [str(ROOT / "launch" / "local_pod.sh"), str(processes), sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ
        | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {FAST_COMPILATION}",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # every start compiles the same
        }
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(processes: int, *command: str, seconds: float = 240, **options) -> tuple[int, str]:
    """Waits for them: the exit status, and what all of them said."""
    pod = start(processes, *command, **options)
    try:
        said, _ = pod.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        pod.terminate()
        said, _ = pod.communicate(timeout=30)
        raise AssertionError(f"{command} still ran after {seconds} s:\n{said}") from None
    return pod.returncode, said


def worker(what: str, *arguments: object, **options) -> tuple[int, str, float]:
    """Two processes of tests/helpers/pod_worker.py: as above, and the seconds that it took."""
    start = time.monotonic()
    status, said = run(2, "tests.helpers.pod_worker", what, *map(str, arguments), **options)
    return status, said, time.monotonic() - start
