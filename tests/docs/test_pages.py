"""README and docs: every command and every snippet runs.

Commands are run as they stand, in this process, in a folder where DATASET, FOLDER, runs/base and so
on are small things of that name. What is not run is checked otherwise:

- `lagseg_jax.main` on the pages of SAMPLES continues finished runs of the tiny config (its fields
  are appended to the command) and evaluates; on the other pages, and `lagseg_jax.study` everywhere,
  the real parser and the checks of the config read the command, as it stands;
- `pip install`, `make` and scripts: the extra, target, file and options that they name must exist.
"""

import contextlib
import functools
import importlib
import importlib.util
import io
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import tiny_run
from configs import default
from hub_server import tiny_files
from lagseg_jax import main, predict, study
from lagseg_jax.config.flags import parse_flags
from lagseg_jax.config.validate import check_config
from lagseg_jax.data.phantom import write_dataset
from lagseg_jax.evaluation.metrics import METRICS
from lagseg_jax.imaging.slices import to_slices
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.model.encoder import EncoderSpec
from lagseg_jax.model.weights import random_params
from lagseg_jax.runs.workdir import FIXED
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.console import log as package_log
from pages import FENCE, FOLDERS, PAGES, README, ROOT, blocks, name_of, spans
from weight_conversion.write import write_encoder

SAMPLES = ("README.md", "getting-started.md")
# Commands of other programs that are taken as they are.
OTHERS = ("python3", ".", "source", "export", "cd", "git", "gcloud", "kubectl", "sbatch", "srun")
OTHERS += ("tmux", "ssh", "scp", "bash", "jupyter", "docker", "cp")
OTHERS += ("sudo", "Orthanc", "find")
OTHERS += ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_predict")
NEEDS = {"--mesh": "fast_simplification", "--input=dicom": "pydicom"}
NEEDS |= {"dicom/patient_1": "pydicom", "--input=dicom/patient_1": "pydicom"}
NEEDS |= {"--dicom_seg": "highdicom", "--rtstruct": "pydicom"}
PYTHON_PAGES = ["README.md", "docs/api.md"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def commands_of(page):
    """Words of every command line: all of the sh blocks, and those within sentences."""
    for text in blocks(page, "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words
    for text in spans(page):
        words = text.split() if "..." in text or "'" not in text else shlex.split(text)
        if re.match(r"(python|pip|make|launch/\S+) \S", text) and "..." not in text:
            if not words[-1].endswith("."):  # `python -m lagseg_jax.` heads a table
                yield words


COMMANDS: dict[tuple[str, ...], set[str]] = {}  # the pages of each
for _page in PAGES:
    for _words in commands_of(_page):
        COMMANDS.setdefault(tuple(_words), set()).add(_page.name)


@pytest.fixture(scope="module")
def place(tmp_path_factory, phantom, finished_run):
    """A folder in which the names in the documentation exist."""
    place = tmp_path_factory.mktemp("place")
    for folder in FOLDERS.split("|"):
        (place / folder).symlink_to(ROOT / folder)
    for name in ("DATASET", "LASCARQS", "data"):
        (place / name).symlink_to(phantom)
    write_dataset(place / "ATRIASEG2018", 3, seed=1, shape=(31, 29, 13), spacing=(3.5, 3.5, 5.0))
    image = phantom / "task2" / "train_data" / "train_1" / "enhanced.nii.gz"
    for name in ("FOLDER", "FILE_OR_FOLDER"):
        (place / name).mkdir()
        shutil.copy(image, place / name / "patient.nii.gz")
    shutil.copytree(finished_run / "evaluation" / "masks", place / "nnunet_masks")
    for name in {n for words in COMMANDS for w in words for n in re.findall(r"runs/(\w+)", w)}:
        shutil.copytree(finished_run, place / "runs" / name)
        (place / "runs" / name / "phantom").symlink_to(phantom)
    scored = [path.name.split(".")[0] for path in (place / "nnunet_masks").iterdir()]
    for file, names in (("verdicts.csv", ["patient"]), ("runs/base/verdicts.csv", scored)):
        lines = [f"{name},{'reject' if name == 'patient' else 'accept'}," for name in names]
        (place / file).write_text("\n".join(["case,verdict,note", *lines]) + "\n")
    spec = EncoderSpec("tiny", 0)
    leaves = flatten_dict(random_params(spec, 0, "float32"), sep="/")
    leaf = {name: np.asarray(value) for name, value in leaves.items()}
    write_encoder(place / "weights" / "base", spec, "float32", lambda name: iter(leaf[name]), {})
    hub = place / "facebook" / "dinov2-base"  # a folder of that name is taken for the hub's model
    hub.mkdir(parents=True)
    for name, content in tiny_files().items():
        (hub / name).write_bytes(content)
    with contextlib.suppress(ImportError):
        import dicom_series

        volume = read_volume(image)
        planes, _ = to_slices(volume.array, volume.affine)
        for name in ("patient_1/LGE", "patient_2"):
            dicom_series.write_series(place / "dicom" / name, planes, spacing=(2.5, 2.5, 5.0))
    return place


@pytest.fixture
def there(place, monkeypatch, tmp_path):
    """That folder as the current one; the console handler of the command lines is taken back."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(package_log, "propagate", True)
    before = list(package_log.handlers)
    yield place
    package_log.handlers[:] = before


def test_there_are_commands():
    """The search itself works."""
    modules = {words[2] for words in COMMANDS if words[:2] == ("python", "-m")}
    assert {"lagseg_jax.main", "lagseg_jax.check", "weight_conversion.convert"} <= modules
    assert len(COMMANDS) > 30
    assert any("--config.data.fractions=(0.7,0.1,0.2)" in words for words in COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command(words, there, phantom, monkeypatch):
    if words[:2] == ("python", "-m"):
        run_module(words[2], list(words[3:]), COMMANDS[words], phantom, monkeypatch)
        return
    if words[:2] == ("pip", "install"):
        for extra in re.findall(r"\[(.+?)\]", words[-1]):
            assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"]), extra
        assert re.fullmatch(r"\.(\[.+\])?", words[-1])
    elif words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[0] == "python":  # a script of hours: its file and its options
        script = (ROOT / words[1]).read_text()
        script += Path(predict.__file__).read_text() * ("predict.main(" in script)  # passed on
        for option in (word.partition("=")[0] for word in words[2:]):
            assert f'"{option}"' in script, option
    else:
        assert words[0] in OTHERS or words[0].startswith((".venv/bin/", "launch/")), words[0]
        inner = [i for i, w in enumerate(words) if w == "python" and words[i + 1] == "-m"]
        if inner and words[inner[0] + 2] == "lagseg_jax.main":
            parse_main(list(words[inner[0] + 3 :]))


def command_lines():
    files = (ROOT / "lagseg_jax").glob("[a-z]*.py")
    return [f"lagseg_jax.{file.stem}" for file in files if "__main__" in file.read_text()]


@functools.cache
def options_of(module):
    """The long options of a command line, by its own help; argparse would take abbreviations."""
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [module, "--help"])
            importlib.import_module(module).main()
    return set(re.findall(r"--\w+", text.getvalue().replace("--[no]", "--")))


def run_module(module, arguments, pages, phantom, monkeypatch):
    if module in (*command_lines(), "weight_conversion.convert"):
        given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert {o for o in given if not o.startswith("--config.")} <= options_of(module)
    for word, package in NEEDS.items():
        if word in (module, *arguments):
            pytest.importorskip(package)
    if module == "lagseg_jax.main":
        parse_main(arguments)
        if pages & set(SAMPLES):
            assert exit_status(lambda: main.main([*arguments, *tiny_fields(phantom)])) == 0
    elif module == "lagseg_jax.study":
        values = parse_flags(["study", *arguments], study.define_flags)
        # In an empty folder: a study refuses the runs of another one.
        values.workdir = "nothing-there-yet"
        assert study.plan_runs(values, study.read_study(values.study, values.config, values.arms))
    elif module == "weight_conversion.convert":
        if "--input=dinov2_vitb14_pretrain.pth" in arguments:
            publish(Path("dinov2_vitb14_pretrain.pth"))
        assert exit_status(lambda: importlib.import_module(module).main(arguments)) == 0
    elif hasattr(benchmark := benchmark_of(module), "parse_arguments"):  # minutes to hours
        benchmark.parse_arguments(arguments)
    elif module == "pytest":
        assert all((ROOT / word).exists() for word in arguments if not word.startswith("-"))
    else:
        module = "lagseg_jax.__main__" if module == "lagseg_jax" else module
        assert exit_status(lambda: importlib.import_module(module).main(arguments)) == 0


def benchmark_of(module):
    """The module of a benchmark's command line; None for any other command."""
    if module.partition(".")[0] != "benchmarks":
        return None
    package = importlib.util.find_spec(module).submodule_search_locations is not None
    return importlib.import_module(f"{module}.__main__" if package else module)


def parse_main(arguments):
    """What `lagseg_jax.main` does with its arguments before it looks at any file."""
    stored = default.get_config if not any(a.startswith("--config=") for a in arguments) else None
    values = parse_flags(["main", *arguments], main.define_flags, stored and (lambda _: stored()))
    values.config.data.root = values.config.data.root or "DATASET"
    check_config(values.config)
    assert values.workdir


def tiny_fields(phantom):
    """Arguments that make any config the one of `finished_run`, as far as checkpoints need it."""
    tiny, base = (
        flatten_dict(c.to_dict()) for c in (tiny_run.config(phantom), default.get_config())
    )
    names = {name for name in tiny if tiny[name] != base[name]}
    names |= {("encoder", "weights"), *(tuple(field.split(".")) for field in FIXED)}
    return [f"--config.{'.'.join(name)}={tiny[name]}" for name in sorted(names)]


def publish(path):
    """A tiny file in the form in which Meta publishes weights."""
    torch = pytest.importorskip("torch")
    import dinov2_torch

    torch.save(dinov2_torch.randomise(dinov2_torch.DINOv2("tiny", 0), seed=1).state_dict(), path)


def test_the_snippet_of_the_readme(there):
    names = {}
    (text,) = blocks(README, "python")
    exec(text, names)
    assert names["mask"].shape == (47, 43, 11) and names["mask"].dtype == np.uint8


def test_the_python_api_gives_the_mask_of_the_command(there):
    """docs/api.md from top to bottom, its command included; no other page has Python code."""
    assert [name_of(page) for page in PAGES if blocks(page, "python")] == PYTHON_PAGES
    names: dict = {}
    for language, text in FENCE.findall((ROOT / "docs" / "api.md").read_text()):
        if language == "sh":
            assert exit_status(functools.partial(predict.main, shlex.split(text)[3:])) == 0
        else:
            exec(text, names)
    mask, by_command = names["mask"], names["by_command"]
    assert mask.any() and mask.shape == by_command.array.shape
    assert names["agreement_with_command"] == 1 and (names["same"] == mask).all()
    assert (read_volume("patient_mask.nii.gz").affine == by_command.affine).all()
    assert (names["probability"][mask > 0] >= 0.5).all()
    assert names["numbers"]["voxels"] == mask.sum()
    assert names["low"] < np.mean(names["ours"]) < names["high"] and 0 < names["p"] < 0.05
    assert len(names["rows"]) == 2 and set(METRICS) < set(names["rows"][0])
    encoded = names["encode"](names["images"])
    assert encoded.patch_tokens.shape == (4, 2, 2, 3, 64)
    assert encoded.register_tokens.shape == (4, 2, 0, 64)
    assert names["probe"].shape == (64,) and names["tokens"].shape == (11, 7, 7, 64)
    assert 0.3 < names["patch_dice"] < 1


def test_options_exist():
    """Every `--option` that stands alone is one of some command line."""
    known = set().union(*map(options_of, [*command_lines(), "weight_conversion.convert"]))
    for script in [ROOT / "launch" / "pacs.py", *(ROOT / "benchmarks").rglob("*.py")]:
        known |= set(re.findall(r'"(--\w+)"', script.read_text()))
    for page in PAGES:
        for option in re.findall(r"^(--\w+)", "\n".join(spans(page)), re.MULTILINE):
            assert option in known, f"{page.name}: {option}"


def test_every_command_line_has_its_row():
    for module in command_lines():
        assert f"python -m {module} " in (ROOT / "docs" / "commands.md").read_text(), module
