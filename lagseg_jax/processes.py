"""options, environment -> which of several processes this one is; their shares, and their end.

Training runs as one process per machine (or per GPU), joined by `jax.distributed`. Work on cases
is shared out, and what is written once is written by the first process. If one process fails, all
of them end, with its sentence: none waits for one that is gone.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import re
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from lagseg_jax.errors import InputError
from lagseg_jax.logs import exit_status, log, log_to_console, still

Item = TypeVar("Item")

START_SECONDS = 300  # for all processes to come
HEARTBEAT_SECONDS = 60  # a process that is silent for so long is gone (killed -9, machine lost)
LEAVE_SECONDS = 10  # between the failure of one process and the end of the last
METADATA = "metadata.google.internal"  # of a Google Cloud machine

_meetings = itertools.count()
_ending = threading.Lock()  # for good: of two threads that end the process, one does


def process() -> tuple[int, int]:
    """The index of this process, and how many there are. Starts no device."""
    if "jax" not in sys.modules:
        return 0, 1
    from jax._src.distributed import global_state

    return global_state.process_id, global_state.num_processes


def share(items: Sequence[Item]) -> list[Item]:
    """This process' part of the items; every item is in the part of exactly one process."""
    index, count = process()
    return list(items[index::count])


def gather(value) -> list:
    """What every process gave (JSON-serialisable, NaN included), by process; waits for all."""
    index, count = process()
    if count == 1:
        return [value]
    folder = f"lagseg_jax/meeting/{next(_meetings)}/"
    client = _client()
    client.key_value_set(f"{folder}{index}", json.dumps(value))
    # Asked again and again, so that signals are answered meanwhile; there is no time limit, as
    # the first process may have hours of work. Who fails or vanishes ends all, see `joined`.
    while len(found := client.key_value_dir_get(folder)) < count:
        time.sleep(0.05)
    return [json.loads(text) for _, text in sorted(found, key=lambda f: int(f[0].split("/")[-1]))]


def once(function: Callable, *arguments) -> None:
    """Calls the function in the first process; the others wait until it has returned."""
    if process()[0] == 0:
        function(*arguments)
    gather(None)


@contextlib.contextmanager
def joined(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
    """Within this block, this process is one of several, if options or environment say so.

    To be entered before JAX has started its devices, which it does. If the block ends with an
    exception in one of several processes, all exit, with the status and the sentence of that one.

    Raises:
        InputError: options that do not fit each other, or processes that do not find each other.
    """
    options = how_to_join(coordinator_address, num_processes, process_id, os.environ)
    if options is None:
        yield
        return
    _start(options)
    index, count = process()
    log_to_console(index)
    log.info("process 0 of %d", count)
    left = threading.Event()
    watch = threading.Thread(target=_watch, args=(left,), daemon=True)
    watch.start()
    try:
        yield
        gather(None)
    except BaseException as error:
        left.set()
        _leave(error)
    left.set()
    watch.join()
    import jax

    jax.distributed.shutdown()


def _start(options: dict) -> None:
    """Finds the other processes and their devices."""
    import jax

    # JAX itself would end a process that waits too long without a sentence.
    timer = threading.Timer(START_SECONDS, _give_up)
    timer.start()
    try:
        with still("waiting for the other processes"):
            jax.distributed.initialize(
                **options,
                initialization_timeout=START_SECONDS + 60,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
            jax.devices()  # waits for those of the others, which may need theirs much later
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"jax.distributed cannot be started ({error}), expected --coordinator_address, "
            "--num_processes and --process_id where JAX does not detect them"
        ) from None
    finally:
        timer.cancel()


def _give_up() -> None:
    sentence = (
        f"error: not all processes have come within {START_SECONDS} s, expected all of them to "
        "start and to reach the first one under --coordinator_address"
    )
    print(sentence, file=sys.stderr, flush=True)
    os._exit(2)


def how_to_join(
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    environment: Mapping[str, str],
) -> dict | None:
    """The arguments of `jax.distributed.initialize`; None for a process that is alone.

    Args:
        coordinator_address: host:port of the first process.
        num_processes: in all.
        process_id: of this one, from 0.
        environment: asked where the three are not given: JAX_COORDINATOR_ADDRESS with
            JAX_NUM_PROCESSES and JAX_PROCESS_ID (or Kubernetes' JOB_COMPLETION_INDEX), a Slurm
            step, Open MPI, a TPU pod (GKE's variables, or the metadata of the TPU VM).

    Raises:
        InputError: the three do not fit each other.
    """
    given = {
        "--coordinator_address": coordinator_address,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    if any(value is not None for value in given.values()):
        return _explicit(given)
    if "JAX_COORDINATOR_ADDRESS" in environment and "JAX_NUM_PROCESSES" in environment:
        indices = [environment.get(n) for n in ("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX")]
        return _explicit(
            {
                "JAX_COORDINATOR_ADDRESS": environment["JAX_COORDINATOR_ADDRESS"],
                "JAX_NUM_PROCESSES": environment["JAX_NUM_PROCESSES"],
                "JAX_PROCESS_ID or JOB_COMPLETION_INDEX": next(filter(None, indices), None),
            }
        )

    def number(name: str, otherwise: int = 1) -> int:
        return int(environment.get(name) or otherwise)

    # The size of the step, not of the job (SLURM_NTASKS): a shell, notebook or single process
    # inside a job of several tasks would wait for the others forever.
    if number("SLURM_STEP_NUM_TASKS") > 1:
        options: dict[str, object] = {"cluster_detection_method": "slurm"}
        alone = re.fullmatch(r"1(\(x\d+\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
        if alone and (gpus := number("SLURM_GPUS_ON_NODE", 0)):
            options["local_device_ids"] = list(range(gpus))  # JAX would take one per process
        return options
    if number("OMPI_COMM_WORLD_SIZE") > 1:
        return {}
    names = [environment.get(n) for n in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")]
    workers = next(filter(None, names), None) or _workers_of_tpu_vm(environment)
    return {} if len(workers.split(",")) * number("MEGASCALE_NUM_SLICES") > 1 else None


def _explicit(given: dict[str, str | int | None]) -> dict | None:
    present = {name: str(value) for name, value in given.items() if value is not None}
    missing = [name for name in given if name not in present]
    if missing:
        raise InputError(
            f"{' and '.join(present)} is given without {' and '.join(missing)}, expected all "
            "three or none of them"
        )
    (where, address), (how_many, total), (which, place) = present.items()
    for name, value in ((how_many, total), (which, place)):
        if not re.fullmatch(r"\d+", value):
            raise InputError(f"{name} is {value}, expected a whole number")
    count, index = int(total), int(place)
    if not re.fullmatch(r"\S+:\d+", address):
        raise InputError(f"{where} is {address!r}, expected host:port of the first process")
    if index >= count:
        raise InputError(f"{which} is {index}, expected a number below the {how_many} of {count}")
    if count == 1:
        return None
    # Without detection: inside a Slurm job, JAX would give this process one GPU only.
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",
    }


def _workers_of_tpu_vm(environment: Mapping[str, str]) -> str:
    """The workers of this TPU VM's pod, separated by commas; "" elsewhere.

    Asked where libtpu is installed, of the address that JAX asks, too; any other machine answers
    at once that there is no such host.
    """
    if importlib.util.find_spec("libtpu") is None or "TPU_SKIP_MDS_QUERY" in environment:
        return ""
    host = environment.get("GCE_METADATA_IP", METADATA)
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/attributes/worker-network-endpoints",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _client():
    from jax._src.distributed import global_state  # JAX has no public name for it; nor has Orbax

    return global_state.client


def _watch(left: threading.Event) -> None:
    """Ends this process soon after another one has failed, unless it ends by itself."""
    with contextlib.suppress(RuntimeError):  # JAX ends it when the first process is gone
        while not left.wait(0.5):
            # Most failures meet all processes, which then end in good order, with files closed.
            if _failures() and not left.wait(LEAVE_SECONDS):
                _ending.acquire()
                _exit(_follow())


def _leave(error: BaseException) -> None:
    """Tells the other processes why this one fails, and exits."""
    _ending.acquire()
    status = 1
    with contextlib.suppress(RuntimeError):  # the first process, which keeps them, may be gone
        if _failures():  # of another process, and this one's follows from it
            _exit(_follow())

    def fail() -> None:
        raise error

    try:
        status = exit_status(fail)
    except BaseException:
        traceback.print_exception(error)
    index, _ = process()
    sentence = " ".join(str(error).split()) or type(error).__name__
    with contextlib.suppress(RuntimeError):
        _client().key_value_set(f"lagseg_jax/failed/{index}", json.dumps([index, status, sentence]))
    _exit(status)


def _failures() -> list[tuple[str, str]]:
    return _client().key_value_dir_get("lagseg_jax/failed/")


def _follow() -> int:
    """Says why the process that failed first did; returns its exit status."""
    index, status, sentence = json.loads(_failures()[0][1])
    print(f"process {index} has stopped: {sentence}", file=sys.stderr)
    return status


def _exit(status: int) -> None:
    """Exits when all processes are here, or have had the time."""
    index, count = process()
    client, deadline = _client(), time.monotonic() + 1.5 * LEAVE_SECONDS
    with contextlib.suppress(RuntimeError):
        client.key_value_set(f"lagseg_jax/left/{index}", "")
        while len(client.key_value_dir_get("lagseg_jax/left/")) < count:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if index == 0:
            time.sleep(1)  # the others need this process to see that they are all here
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: JAX would wait at exit for processes that are gone.
    os._exit(status)
