"""Several processes: who is who, equal numbers, files written once, and no hang when one fails."""

import concurrent.futures
import http.server
import importlib.util
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import pod
import tiny_run
from lagseg_jax.runtime import processes
from lagseg_jax.runtime.cluster import how_to_join
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.processes import allgather, joined, once, share

STEPS = 20
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


def worker(what, *arguments, **options):
    start = time.monotonic()
    status, said = pod.run(2, "tests.helpers.pod_worker", what, *map(str, arguments), **options)
    return status, said, time.monotonic() - start


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
        "processes.START_SECONDS = 15\n"
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
    assert "error: not all processes have come within 15 s" in said[0]
    assert "error: the first process cannot be reached at " in said[1]
    assert "Traceback" not in said[0] + said[1]


def train(processes, devices, phantom, workdir, **environment):
    status, said = pod.run(
        processes,
        "lagseg_jax.main",
        f"--config=tests/helpers/tiny_run.py:{phantom}",
        f"--workdir={workdir}",
        f"--config.train.steps={STEPS}",
        "--config.train.evaluate_every=5",
        "--config.train.checkpoint_every=5",
        devices=devices,
        seconds=280,
        **environment,
    )
    assert status == 0, said


def continue_from(workdir, step, copy):
    """The run as if it had been stopped after this step."""
    shutil.copytree(workdir, copy)
    for folder in (copy / "checkpoints").iterdir():
        if folder.name.isdigit() and int(folder.name) > step:
            shutil.rmtree(folder)
    assert (copy / "checkpoints" / str(step)).is_dir()


def parameters(workdir):
    with ocp.PyTreeCheckpointer() as checkpointer:
        path = workdir / "checkpoints" / str(STEPS) / "state"
        tree = checkpointer.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return checkpointer.restore(path, restore_args=as_numpy)["params"]


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()][1:]


def assert_equal_runs(workdir, reference):
    ours, theirs = rows_of(workdir), rows_of(reference)
    assert [row["step"] for row in ours] == list(range(1, STEPS + 1))
    within = {"loss": 1e-6, "validation_loss": 1e-6, "gradient_norm": 1e-6, "learning_rate": 1e-6}
    # A voxel whose probability is rounded to the other side of 0.5 is 2e-5 of this Dice.
    within["validation_dice"] = 1e-4
    for ours_at, theirs_at in zip(ours, theirs, strict=True):
        for name, tolerance in within.items():
            if name in theirs_at:
                np.testing.assert_allclose(ours_at[name], theirs_at[name], rtol=0, atol=tolerance)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)  # noqa: E731
    jax.tree.map(compare, parameters(workdir), parameters(reference))
    cases = [(w / "evaluation" / "per_case.csv").read_text() for w in (workdir, reference)]
    assert cases[0].count("\n") == 3 and cases[0] == cases[1]


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """Environment in which every process notes the files that it puts into place."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "sitecustomize.py").write_text(
        "import os, sys\n"
        "who = [a.split('=')[1] for a in sys.orig_argv if a.startswith('--process_id=')]\n"
        "if who:\n"
        f"    notes = open({str(folder)!r} + '/' + who[0], 'wb', buffering=0)\n"
        "    def note(event, args):\n"
        "        if event == 'os.rename':\n"
        "            notes.write(os.fsencode(args[1]) + b'\\n')\n"
        "    sys.addaudithook(note)\n"
    )
    return folder


def placed(audited, root):
    """What each process put into place below a folder."""
    lines = [(audited / str(index)).read_text().splitlines() for index in range(2)]
    return [[line for line in part if line.startswith(f"{root}/")] for part in lines]


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory, audited):
    """A finished run of 2 processes with 2 devices each, and who wrote what."""
    root = tmp_path_factory.mktemp("pod")
    phantom = tiny_run.write_phantom(root / "phantom")
    train(2, 2, phantom, root / "run", PYTHONPATH=str(audited))
    return root, phantom, placed(audited, root)


def test_losses_and_parameters_are_those_of_one_process(two_by_two, tmp_path):
    """Of 1 process x 4 devices; of 1 x 1 that continues the two; of two that continue the one."""
    root, phantom, _ = two_by_two
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        reference = pool.submit(train, 1, 4, phantom, tmp_path / "reference")
        continue_from(root / "run", 15, tmp_path / "one")
        one = pool.submit(train, 1, 1, phantom, tmp_path / "one")
        reference.result(), one.result()
    assert_equal_runs(root / "run", tmp_path / "reference")
    assert_equal_runs(tmp_path / "one", tmp_path / "reference")
    continue_from(tmp_path / "reference", 15, tmp_path / "two")
    train(2, 2, phantom, tmp_path / "two")
    assert_equal_runs(tmp_path / "two", tmp_path / "reference")


def test_every_file_is_written_once(two_by_two):
    root, _, (first, second) = two_by_two
    counts = Counter([*first, *second])
    assert counts and set(counts.values()) == {1}, counts.most_common(3)
    # The second process writes what it shares: decoded cases, masks and pages of test cases.
    kinds = {os.path.basename(os.path.dirname(path)) for path in second}
    assert kinds == {"cache", "masks", "review"}
    run = root / "run"
    for name in ("config.json", "splits.json", "metrics.jsonl", "evaluation/summary.json"):
        assert str(run / name) in first, name
    assert len(list((run / "evaluation" / "masks").iterdir())) == 2
    assert {"15", "20"} <= {p.name for p in (run / "checkpoints").iterdir()}
    partial = [p for p in root.rglob("*") if "tmp" in p.name or "writing" in p.name]
    assert not partial


def test_predicts_every_file_once(two_by_two, audited, tmp_path):
    root, phantom, _ = two_by_two
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for number in range(1, 6):
        source = phantom / "task2" / "train_data" / f"train_{number}" / "enhanced.nii.gz"
        shutil.copy(source, inputs / f"case_{number}.nii.gz")
    (inputs / "bad.nii.gz").write_bytes(b"not a volume")
    command = ["lagseg_jax.predict", "--workdir", str(root / "run"), "--statistics", "--resume"]
    command += ["-o", str(tmp_path / "masks"), "-i"]
    third = [sys.executable, "-m", *command, str(inputs / "case_3.nii.gz")]  # an earlier start
    subprocess.run(third, check=True, cwd=pod.ROOT, capture_output=True)
    command.append(str(inputs))
    status, said = pod.run(2, *command, devices=2, PYTHONPATH=str(audited))
    assert status == 2 and "bad.nii.gz" in said and "Traceback" not in said, said
    masks = [[p for p in part if p.endswith(".nii.gz")] for part in placed(audited, tmp_path)]
    expected = [str(tmp_path / "masks" / f"case_{number}.nii.gz") for number in (1, 2, 4, 5)]
    assert sorted(masks[0] + masks[1]) == expected and all(masks)
    table = (tmp_path / "masks" / "statistics.csv").read_text()
    assert all(f"case_{number}," in table for number in range(1, 6))


def test_a_reader_that_fails_in_one_process_ends_the_training_of_both(two_by_two, tmp_path):
    """In the middle of an epoch, the first process being the one that the others depend on."""
    _, phantom, _ = two_by_two
    arguments = ("train", phantom, tmp_path / "run", STEPS, 0, 8)
    status, said, _ = worker(*arguments, devices=2, seconds=200)
    assert status == 2 and "Traceback" not in said, said
    assert "error: /data/scan.nii.gz has 0 bytes" in said
    assert "process 0 has stopped: /data/scan.nii.gz has 0 bytes" in said
    assert (tmp_path / "run" / "checkpoints" / "5").is_dir()
