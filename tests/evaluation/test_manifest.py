"""The manifest names the code, the data and the weights that a number came from."""

import dataclasses
import json
import shlex
import shutil
import subprocess
import sys

import pytest

from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.evaluation.manifest import dataset_hash
from lagseg_jax.runtime.host import git_commit


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    line = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(not shutil.which("git"), reason="no git here")
def test_commit_of_a_checkout(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    code = package / "__init__.py"
    code.write_text("a = 1\n")
    assert git_commit(package) is None
    git(tmp_path, "init", "--quiet")
    assert git_commit(package) is None  # inside a checkout, but of something else
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(package) == commit
    code.write_text("a = 2\n")
    assert git_commit(package) == f"{commit}-dirty"


def test_dataset_hash_is_of_names_and_contents(phantom, tmp_path):
    cases = detect(phantom).cases
    expected = dataset_hash(cases)
    copy = tmp_path / "elsewhere"
    shutil.copytree(phantom, copy)
    moved = detect(copy).cases
    assert dataset_hash(moved[::-1]) == expected
    assert dataset_hash(cases[1:]) != expected
    renamed = dataclasses.replace(cases[0], name="other")
    assert dataset_hash([renamed, *cases[1:]]) != expected
    with moved[2].label.open("ab") as file:
        file.write(b"\0")
    assert dataset_hash(moved) != expected


def test_manifest_of_a_run(finished_run):
    manifest = json.loads((finished_run / "evaluation" / "manifest.json").read_text())
    summary = json.loads((finished_run / "evaluation" / "summary.json").read_text())
    assert manifest["config"] == json.loads((finished_run / "config.json").read_text())
    assert manifest["checkpoint_step"] == summary["step"]
    assert manifest["encoder"] == summary["encoder"] and len(manifest["encoder"]["sha256"]) == 64
    assert manifest["dataset"]["cases"] == summary["n_cases"]
    assert manifest["devices"]["platform"] == "cpu" and manifest["devices"]["count"] == 2
    assert manifest["versions"]["jax"] and shlex.split(manifest["command"]) == sys.orig_argv
