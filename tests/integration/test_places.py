"""No home, folders that cannot be written to, full disks: a sentence that names the path."""

import os
import pwd
import resource
import shutil
import signal
from pathlib import Path

import jax
import pytest

import tiny_run
from lagseg_jax import calibrate, check, compare, export, info, main, predict, report
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.data.prepare import Preparation, prepare_cases
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.devices import use_compilation_cache
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import cache_home, check_writable

FULL = "No space left on device"


@pytest.fixture
def call(capsys):
    """Calls a command; returns its exit status and what it said on standard error."""

    def run(command, *arguments):
        status = exit_status(lambda: command.main([str(a) for a in arguments]))
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return status, said

    return run


@pytest.fixture
def homeless(monkeypatch):
    """What `docker --user` with a number gives: no HOME, and a user without an entry in passwd."""

    def unknown(user):
        raise KeyError(user)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.fixture
def cacheless(monkeypatch):
    """JAX has not been told where compiled code goes."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def training(phantom, workdir, *more):
    return f"--config={tiny_run.__file__}:{phantom}", f"--workdir={workdir}", *more


def test_without_a_home(homeless, cacheless, phantom, finished_run, tmp_path, call):
    with pytest.raises(InputError, match=r"~/.cache is in no known place, as HOME is not set"):
        cache_home()
    assert call(info)[0] == 0
    status, said = call(main, *training(phantom, tmp_path / "run", "--config.data.cache_dir="))
    assert status == 2 and "HOME is not set" in said and not (tmp_path / "run").exists()
    status, said = call(main, *training(phantom, tmp_path / "run", "--config.data.split=~/s.json"))
    assert status == 2 and "~/s.json is in no known place" in said
    image = next(phantom.rglob("enhanced.nii.gz"))
    status, said = call(predict, "--workdir", finished_run, "-i", image, "-o", tmp_path / "out")
    assert status == 0 and "WARNING: compiled code is not kept: ~/.cache is in no" in said


def test_a_home_that_cannot_be_written_to(cacheless, phantom, tmp_path, monkeypatch, call, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    status, said = call(main, *training(phantom, tmp_path / "run", "--config.data.cache_dir="))
    assert status == 2 and f"{tmp_path / 'file'} cannot be written to" in said
    assert "config.data.cache_dir" in said and not (tmp_path / "run").exists()
    use_compilation_cache()
    assert "compiled code is not kept" in capsys.readouterr().err
    assert jax.config.jax_compilation_cache_dir is None


def test_outputs_that_cannot_be_written_are_answered_before_the_work(
    finished_run, phantom, tmp_path, call, monkeypatch
):
    """A file where the folder would be stands for any folder that refuses."""
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "x"
    masks = finished_run / "evaluation" / "masks"
    image = next(phantom.rglob("enhanced.nii.gz"))

    def work(*_):
        raise AssertionError("the work has begun")

    monkeypatch.setattr("lagseg_jax.check.check_datasets", work)
    monkeypatch.setattr("lagseg_jax.compare.score_masks", work)
    monkeypatch.setattr("lagseg_jax.inference.load_segmenter.load_frozen_encoder", work)
    monkeypatch.setattr("lagseg_jax.model.frozen_encoder.load_frozen_encoder", work)
    for command, *arguments in (
        (check, phantom, "--json", below),
        (compare, phantom, masks, "--output", below),
        (predict, "--workdir", finished_run, "-i", image, "-o", below),
        (export, "--workdir", finished_run, "-o", below / "x.safetensors"),
        (main, *training(phantom, below)),
    ):
        status, said = call(command, *arguments)
        assert status == 2 and str(tmp_path / "file") in said
    check_writable(tmp_path / "new" / "deep", "-")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name", ["report.html", "manifest.json", "summary.json", "per_case.csv", "calibration.json"]
)
def test_a_full_disk_is_status_1_and_names_the_file(
    finished_run, tmp_path, monkeypatch, call, name
):
    workdir = Path(shutil.copytree(finished_run, tmp_path / "run"))
    masks = sorted((workdir / "evaluation" / "masks").iterdir())
    replace = os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError(28, FULL)
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    how = (main, "--mode=evaluate", f"--workdir={workdir}")
    status, said = call(*((calibrate, workdir) if name == "calibration.json" else how))
    assert status == 1
    assert said.splitlines()[-1] == f"error: {workdir / 'evaluation' / name}: {FULL}"
    assert sorted((workdir / "evaluation" / "masks").iterdir()) == masks
    if name == "report.html":
        assert call(report, workdir)[0] == 1
    assert not list(workdir.rglob(".partial*"))


@pytest.mark.parametrize("size", [100, 20_000])
def test_a_cache_that_is_full_is_status_1_and_named(phantom, tmp_path, capsys, size):
    """NumPy does not say why it wrote only a part of an array."""
    cases, cache = detect(phantom).cases[:2], tmp_path / "cache"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        how = Preparation(224, (0.5, 99.5)), cache, 1.0
        assert exit_status(lambda: prepare_cases(cases, *how) and 0) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {cache}: ")
    assert not list(cache.iterdir())
