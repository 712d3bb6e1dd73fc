"""Finds out how the processes of one run meet: from options, or from a cluster's environment."""

import importlib.util
import re
import urllib.request
from collections.abc import Mapping

from lagseg_jax.runtime.errors import InputError

METADATA = "metadata.google.internal"  # of a Google Cloud machine


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
    return _detected(environment)


def _detected(environment: Mapping[str, str]) -> dict | None:
    """The same from a launcher's variables."""

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
