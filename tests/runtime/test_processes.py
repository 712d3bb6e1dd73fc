"""Several processes: who is who, equal numbers, files written once, and no hang when one fails."""

import http.server
import importlib.util
import itertools
import os
import re
import socket
import subprocess
import sys
import threading

import jax
import pytest

import pod
from lagseg_jax.runtime import processes
from lagseg_jax.runtime.cluster import how_to_join
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.processes import allgather, joined, once, share
from pod import worker

SLURM_STEP = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
# What Slurm leaves in a shell, notebook or lone process inside an allocation of several tasks.
SLURM_SHELL = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
    "SLURM_GPUS_ON_NODE": "4",
}
KUBERNETES = {"JAX_COORDINATOR_ADDRESS": "job-0-0.job:8476", "JOB_COMPLETION_INDEX": "1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (SLURM_SHELL, None),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}, None),  # sbatch's own shell
        (SLURM_STEP, {"cluster_detection_method": "slurm"}),
        (
            SLURM_STEP | {"SLURM_STEP_TASKS_PER_NODE": "1(x8)", "SLURM_GPUS_ON_NODE": "4"},
            {"cluster_detection_method": "slurm", "local_device_ids": [0, 1, 2, 3]},
        ),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),  # Colab
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, {}),
        ({"JOB_COMPLETION_INDEX": "1"}, None),  # an indexed job of separate runs
        (
            KUBERNETES | {"JAX_NUM_PROCESSES": "2"},
            {
                "coordinator_address": "job-0-0.job:8476",
                "num_processes": 2,
                "process_id": 1,
                "cluster_detection_method": "deactivate",
            },
        ),
    ],
)
def test_the_environment_says_who_we_are(environment, expected):
    assert how_to_join(None, None, None, environment) == expected


def test_options_have_precedence_over_the_environment():
    options = how_to_join("host:1", 3, 2, SLURM_STEP)
    assert (options["num_processes"], options["process_id"]) == (3, 2)
    assert options["coordinator_address"] == "host:1"
    assert how_to_join("host:1", 1, 0, SLURM_STEP) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("host:1", 2, None), "--process_id"),
        ((None, 2, None), "--coordinator_address and --process_id"),
        ((None, None, 0), "--coordinator_address and --num_processes"),
        (("host:1", 2, 2), "--process_id is 2"),
        (("host:1", 2, -1), "--process_id is -1"),
        (("host:1", 0, 0), "--process_id is 0"),
        (("host", 2, 1), "'host'"),
        ((":1", 2, 1), "':1'"),
    ],
)
def test_combinations_that_cannot_be(given, expected):
    with pytest.raises(InputError, match=re.escape(expected)):
        how_to_join(*given, {})


def test_kubernetes_without_the_number_of_the_process():
    environment = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2"}
    with pytest.raises(InputError, match="JOB_COMPLETION_INDEX"):
        how_to_join(None, None, None, environment)


@pytest.mark.parametrize(("workers", "expected"), [("10.0.0.1", None), ("x:0:10.0.0.1,y", {})])
def test_a_tpu_vm_asks_its_metadata(monkeypatch, workers, expected):
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path.endswith("/worker-network-endpoints")
            assert self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(workers.encode())

        def log_message(self, *_):
            pass

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu")
    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
        assert how_to_join(None, None, None, environment) == expected
        assert how_to_join(None, None, None, environment | {"TPU_SKIP_MDS_QUERY": "1"}) is None
        server.shutdown()
    assert how_to_join(None, None, None, environment) is None  # nobody answers


def test_a_process_alone_starts_nothing(monkeypatch):
    for name, value in SLURM_SHELL.items():
        monkeypatch.setenv(name, value)
    called = []
    with joined():
        assert not jax.distributed.is_initialized()
        assert processes.process() == (0, 1)
        assert share([3, 5, 7]) == [3, 5, 7] and allgather("x") == ["x"]
        once(called.append, 1)
    assert called == [1]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 11])
def test_shares_hold_every_item_once(monkeypatch, count):
    parts = []
    for index in range(count):
        monkeypatch.setattr(processes, "process", lambda index=index: (index, count))
        parts.append(share(range(7)))
    assert sorted(itertools.chain(*parts)) == list(range(7))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def test_two_processes_meet_in_a_slurm_step():
    """With nothing but the variables that `srun` sets, from which JAX takes the address."""
    port = free_port()

    def start(index):
        slurm = SLURM_SHELL | {
            "SLURM_NTASKS": "2",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_TASKS_PER_NODE": "2",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_PROCID": str(index),
            "SLURM_LOCALID": str(index),
            "JAX_COORDINATOR_PORT": port,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.pod_worker", "meet"],
            cwd=pod.ROOT,
            env=os.environ | slurm,
            stderr=subprocess.PIPE,
            text=True,
        )

    both = [start(index) for index in range(2)]
    said = [process.communicate(timeout=100)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "\nWARNING: of 2 processes, 0 has [0, 2, 4, 6] and made [0]\n" in said[0]
    assert said[1] == "[process 1] WARNING: of 2 processes, 1 has [1, 3, 5] and made []\n"
    assert "info of 0\n" in said[0]  # information comes from the first process only


def test_one_that_fails_ends_the_other_with_its_sentence():
    """While the other one waits for it on the devices, where no exception can reach it."""
    status, said, seconds = worker("bad_file")
    sentence = "/data/scan.nii.gz has 0 bytes, expected a volume file"
    assert status == 2 and seconds < 60
    assert f"error: {sentence}\n" in said and f"process 1 has stopped: {sentence}\n" in said
    assert "Traceback" not in said


def test_one_that_is_killed_ends_the_other():
    status, said, seconds = worker("kill")
    assert status not in (0, 2) and seconds < 100, said


def test_one_that_never_comes_is_named_in_a_sentence():
    code = (
        "import sys; from lagseg_jax.runtime import console, processes\n"
        "processes.START_SECONDS = 2\n"
        "with processes.joined(sys.argv[1], 2, 0): print('joined')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"127.0.0.1:{free_port()}"],
        cwd=pod.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: not all processes have come within 2 s")
    assert len(done.stderr.splitlines()) == 1


def test_processes_that_cannot_connect_end_with_a_sentence_each():
    """As behind a firewall that lets nothing but JAX's own port through."""
    code = (
        "import sys; from lagseg_jax.runtime import channel, console, processes\n"
        "processes.START_SECONDS = 8\n"
        "call = channel._call\n"
        "channel._call = lambda invitation: call(invitation | {'port': 1})\n"
        "def main():\n"
        "    with processes.joined(sys.argv[1], 2, int(sys.argv[2])): print('joined')\n"
        "sys.exit(console.exit_status(main))"
    )
    address = f"127.0.0.1:{free_port()}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, address, str(index)],
            cwd=pod.ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2], said
    assert "error: not all processes have come within 8 s" in said[0]
    assert "error: the first process cannot be reached at " in said[1]
    assert "Traceback" not in said[0] + said[1]
