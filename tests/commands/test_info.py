"""python -m lagseg_jax.info: at once, without jax, and what it says is there."""

import importlib.util
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lagseg_jax
from lagseg_jax import info
from lagseg_jax.data.layouts.known import LAYOUTS, NAMINGS, SERIES
from lagseg_jax.reports import installation
from lagseg_jax.runtime.console import exit_status

ROOT = Path(lagseg_jax.__file__).parent.parent


@pytest.fixture
def weights(tmp_path):
    """Cards as weight_conversion writes them: one whole, one without its tensors, one damaged."""
    card = {"variant": "small", "registers": 4, "interpolation": "antialias", "grid": 37}
    card |= {"dtype": "bfloat16", "parameters": 22_057_728, "encoder_sha256": "ab" * 32}
    for name in ("whole", "half", "damaged"):
        (tmp_path / "weights" / name).mkdir(parents=True)
        (tmp_path / "weights" / name / "card.json").write_text(json.dumps(card))
    (tmp_path / "weights" / "whole" / "encoder.safetensors").write_bytes(b"")
    (tmp_path / "weights" / "damaged" / "card.json").write_text("{")
    return tmp_path / "weights"


def test_under_2_seconds_without_jax():
    script = (
        "import sys; from lagseg_jax import info; info.main([]); "
        "print(*({'jax', 'flax', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):  # the best of three: other programs use this machine, too
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
        )
        seconds.append(time.monotonic() - start)
        assert done.returncode == 0 and done.stderr.strip() == "", done.stderr
        if seconds[-1] < 2:
            break
    assert min(seconds) < 2


def test_json(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    slices = tmp_path / "cache" / "lagseg_jax" / "slices" / "0123"
    slices.mkdir(parents=True)
    (slices / "images.npy").write_bytes(bytes(3_000_000))
    assert info.main(["--json", "--weights", str(weights)]) == 0
    found = json.loads(capsys.readouterr().out)
    paths = {one["config"] for one in found["configs"]}
    assert {"configs/base.py", "configs/cpu.py", "configs/default.py"} <= paths
    assert all((ROOT / path).is_file() for path in paths)
    assert all(len(one["about"]) > 10 for one in found["configs"])
    layouts = [*LAYOUTS, *NAMINGS, *SERIES]
    assert [one["layout"] for one in found["layouts"]] == [one.name for one in layouts]
    assert found["cache"]["slices_gb"] == pytest.approx(0.003) and found["cache"]["xla_gb"] == 0
    import jax

    assert found["versions"]["jax"] == jax.__version__
    damaged, half, whole = found["weights"]
    assert "card.json" in damaged["problem"] and "encoder.safetensors" in half["problem"]
    assert whole["variant"] == "small" and whole["parameters"] == 22_057_728


def test_text(weights, capsys):
    assert info.main(["--weights", str(weights / "whole")]) == 0
    out = capsys.readouterr().out
    assert "small, 4 registers, 22.1 M parameters, bfloat16" in out
    for text in ("lgemri.nrrd", "configs/giant.py", "CPU cores", "lagseg_jax.check DATASET"):
        assert text in out
    assert info.main(["--weights", str(weights / "nothing")]) == 0
    assert "none found" in capsys.readouterr().out


def test_the_series_of_a_study(tmp_path, capsys):
    pytest.importorskip("pydicom")
    import dicom_series

    pixels = np.random.default_rng(0).integers(0, 4096, (11, 5, 7)).astype(np.uint16)
    dicom_series.write_study(tmp_path / "cd", pixels)
    assert info.main([str(tmp_path / "cd")]) == 0
    out = capsys.readouterr().out
    assert "study 1 of 1" in out and "predict takes 5 (*)" in out and "Secret" not in out
    assert "not suitable: an angiography" in out and "7 x 5 x 11" in out
    assert exit_status(lambda: info.main([str(tmp_path)])) == 0
    (tmp_path / "none").mkdir()
    assert exit_status(lambda: info.main([str(tmp_path / "none")])) == 2


def test_the_commands_exist():
    for command in installation.installation([])["commands"]:
        words = shlex.split(command["command"])
        assert words[:2] == ["python", "-m"] and importlib.util.find_spec(words[2])
        for word in words:
            if word.startswith(("--config=", "--study=")):
                assert (ROOT / word.split("=")[1]).is_file()


def test_a_reader_that_has_enough_is_no_error():
    line = f"{sys.executable} -m lagseg_jax.info --json | sleep 0"  # gone before we write
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
