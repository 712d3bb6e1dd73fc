"""launch/: scripts and manifests parse and name what exists; the notebooks run to their end."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from absl import flags

import hub_server
import pod
from configs import default
from lagseg_jax import main, predict
from lagseg_jax.runtime.cluster import how_to_join

LAUNCH = pod.ROOT / "launch"
SCRIPTS = ["local_pod.sh", "slurm.sbatch", "tpu_pod.sh"]
NOTEBOOKS = ["colab_gpu.ipynb", "colab_tpu.ipynb"]
TEXTS = [*SCRIPTS, *NOTEBOOKS, "gke_jobset.yaml", "README.md"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse(name):
    checker = ["shellcheck"] if shutil.which("shellcheck") else ["bash", "-n"]
    done = subprocess.run([*checker, LAUNCH / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["local_pod.sh", "tpu_pod.sh"])
def test_scripts_that_are_called_wrongly_say_how(name):
    done = subprocess.run([LAUNCH / name, "many"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


def test_local_pod_passes_a_status_and_a_signal_on():
    command = "import sys; sys.exit(int(sys.argv[3].split('=')[1]) * 3)"
    done = subprocess.run([LAUNCH / "local_pod.sh", "3", "python3", "-c", command])
    assert done.returncode == 3
    # In one write each: the two share the pipe.
    sleep = r"import os, time; os.write(1, b'up\n'); time.sleep(60)"
    arguments = [LAUNCH / "local_pod.sh", "2", "python3", "-c", sleep]
    running = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert [running.stdout.readline() for _ in range(2)] == ["up\n"] * 2
    running.terminate()
    assert running.wait(20) == 128 + 15


def commands(text):
    """The arguments of every call of one of our modules: [(module, [argument, ...]), ...]."""
    lines = re.sub(r"\\\n[ #]*", " ", text).splitlines()
    found = [
        re.search(r"-m (lagseg_jax\.\w+|weight_conversion\.\w+) ?(.*)", line) for line in lines
    ]
    calls = [(match[1], match[2]) for match in found if match]
    # Scripts in front of main take its arguments.
    for line in lines:
        if match := re.search(r"launch/(?:slurm\.sbatch|tpu_pod\.sh)( .*--.*)", line):
            calls.append(("lagseg_jax.main", match[1]))
    return [(module, re.findall(r"--[\w.]+(?:=\S+)?", rest)) for module, rest in calls]


def flags_of(module):
    if module == "lagseg_jax.main":
        values = flags.FlagValues()
        main.define_flags(values)
        return {"config", "workdir", *values}
    if module == "lagseg_jax.predict":
        text = Path(predict.__file__).read_text()
    else:
        text = (pod.ROOT / f"{module.replace('.', '/')}.py").read_text()
    return set(re.findall(r'"--(\w+)"', text))


@pytest.mark.parametrize("name", TEXTS)
def test_modules_flags_and_fields_exist(name):
    text = (LAUNCH / name).read_text()
    if name.endswith(".ipynb"):
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    config = default.get_config()
    for module, arguments in commands(text):
        for argument in arguments:
            flag, _, value = argument.removeprefix("--").partition("=")
            if flag.startswith("config."):
                _, section, field = flag.split(".")
                assert field in config[section], argument
            else:
                assert flag in flags_of(module), f"{module} {argument}"
            if flag == "config" and value.startswith("configs/"):
                assert (pod.ROOT / value).is_file(), argument
    for path in re.findall(r"\b(?:configs|launch)/\w+\.\w+", text):
        assert (pod.ROOT / path).is_file(), path
    for flag in re.findall(r"--config\.(\w+)\.(\w+)", text):
        assert flag[1] in config[flag[0]], flag


def test_the_checks_of_flags_see_them():
    calls = [call for name in TEXTS for call in commands((LAUNCH / name).read_text())]
    modules = {module for module, _ in calls}
    assert {"lagseg_jax.main", "lagseg_jax.predict"} <= modules and len(calls) > 8
    assert ("lagseg_jax.main", ["--a", "--b=c"]) in commands("x -m lagseg_jax.main --a \\\n  --b=c")
    assert flags_of("lagseg_jax.predict") >= {"workdir", "resume", "num_processes"}


def jobsets():
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text()))


@pytest.mark.parametrize("number", [0, 1], ids=["gpu", "tpu"])
def test_jobsets_have_what_jobset_requires(number):
    """The fields of jobset.x-k8s.io/v1alpha2, Job and Pod that a JobSet cannot do without."""
    job_set = jobsets()[number]
    assert job_set["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and job_set["kind"] == "JobSet"
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job_set["metadata"]["name"])
    assert isinstance(job_set["spec"]["failurePolicy"]["maxRestarts"], int)
    (jobs,) = job_set["spec"]["replicatedJobs"]
    assert jobs["replicas"] == 1
    job = jobs["template"]["spec"]
    assert job["parallelism"] == job["completions"] > 1 and job["completionMode"] == "Indexed"
    assert job["backoffLimit"] == 0  # a restarted pod cannot join the others
    pods = job["template"]["spec"]
    assert pods["restartPolicy"] == "Never"
    (container,) = pods["containers"]
    assert {"name", "image", "command", "args", "resources"} <= set(container)
    (limit,) = container["resources"]["limits"].values()
    assert limit.isdigit()
    volumes = {volume["name"] for volume in pods["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert "python -m lagseg_jax.main " in container["args"][0]


def test_the_gpu_jobset_tells_each_process_who_it_is():
    job_set = jobsets()[0]
    (jobs,) = job_set["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    environment = {e["name"]: e["value"] for e in container["env"]}
    environment["JOB_COMPLETION_INDEX"] = str(job["completions"] - 1)  # by Kubernetes
    name = job_set["metadata"]["name"]
    port = container["ports"][0]["containerPort"]
    options = how_to_join(None, None, None, environment)
    # JobSet's names: <jobset>-<job>-<job index>-<pod index>.<jobset>
    assert options["coordinator_address"] == f"{name}-{jobs['name']}-0-0.{name}:{port}"
    assert options["num_processes"] == job["completions"]
    assert options["process_id"] == job["completions"] - 1


def notebook(name):
    return json.loads((LAUNCH / name).read_text())


def test_the_notebooks_differ_in_the_accelerator_only():
    gpu, tpu = (json.dumps(notebook(name)["cells"]) for name in NOTEBOOKS)
    assert gpu.replace("GPU", "TPU").replace("[cuda12,", "[tpu,") == tpu


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_committed_without_outputs(name):
    cells = [cell for cell in notebook(name)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def run_notebook(name, settings):
    """Its outputs by cell, with other settings behind the cell tagged "parameters" (papermill)."""
    nbclient, nbformat, _ = map(pytest.importorskip, ("nbclient", "nbformat", "ipykernel"))
    book = nbformat.read(LAUNCH / name, as_version=4)
    (index,) = [i for i, c in enumerate(book.cells) if "parameters" in c.metadata.get("tags", [])]
    assert set(re.findall(r"\b([A-Z]+) = ", book.cells[index].source)) > set(settings)
    source = "\n".join(f"{key} = {value!r}" for key, value in settings.items())
    book.cells.insert(index + 1, nbformat.v4.new_code_cell(source))
    resources = {"metadata": {"path": str(pod.ROOT)}}
    nbclient.NotebookClient(book, timeout=240, kernel_name="python3", resources=resources).execute()
    return {cell.id: cell.get("outputs", []) for cell in book.cells}


def htmls(outputs):
    return [o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {})]


@pytest.fixture
def settings(phantom, tmp_path):
    """The tiny config on data of one's own; nothing to predict is named."""
    return {
        "CONFIG": f"tests/helpers/tiny_run.py:{phantom}",
        "DATA": str(phantom),
        "FOLDER": str(tmp_path / "atrium"),
        "WEIGHTS": "facebook/dinov2-tiny",
    }


def test_a_notebook_with_published_weights_and_data_of_ones_own(settings, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    folder = "task2/train_data/*"
    settings["IMAGES"] = f"{folder}/enhanced.nii.gz"
    settings["LABELS"] = f"{folder}/atriumSegImgMO.nii.gz"
    with hub_server.serve() as hub:
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub"), "NO_PROXY": "127.0.0.1"}
        for variable, value in places.items():
            monkeypatch.setenv(variable, value)
        outputs = run_notebook(NOTEBOOKS[0], settings)

    weights = str(tmp_path / "atrium" / "weights" / "dinov2-tiny")
    assert f"DINOv2 tiny from {weights}" in json.dumps(outputs["convert"])
    summary = json.loads((tmp_path / "atrium" / "run" / "evaluation" / "summary.json").read_text())
    assert summary["encoder"]["weights"] == weights and "warning" not in summary["encoder"]
    pictures = [o for o in outputs["overlays"] if "image/png" in o.get("data", {})]
    assert len(pictures) == 2  # of two test cases: the best and the worst
    assert any("image/png" in o.get("data", {}) for o in outputs["fusion"])
    masks = [f"train_{number}.nii.gz" for number in range(1, 7)]
    assert all(mask in json.dumps(outputs["predict"]) for mask in masks)
    assert sorted(path.name for path in (tmp_path / "atrium" / "masks").glob("*.nii.gz")) == masks
    (viewer,) = htmls(outputs["viewer"])
    assert viewer.count("data:image/png;base64") == 11 and 'type="range"' in viewer  # slices


def test_a_notebook_where_the_weights_cannot_be_had(settings, phantom, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    one = {"INPUT": str(phantom / "task2" / "train_data" / "train_1")}
    outputs = run_notebook(NOTEBOOKS[1], settings | one)

    said = json.dumps(outputs["convert"])
    assert "RANDOM WEIGHTS" in said and "facebook/dinov2-tiny" in said
    summary = json.loads((tmp_path / "atrium" / "run" / "evaluation" / "summary.json").read_text())
    assert "random weights" in summary["encoder"]["warning"]
    assert not (tmp_path / "atrium" / "weights").exists()
    assert "enhanced.nii.gz" in json.dumps(outputs["predict"])
    assert htmls(outputs["viewer"])
