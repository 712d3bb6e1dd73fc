"""python -m benchmarks as a whole: both workers agree, and every row is timed."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest

from benchmarks.common.worker import ROOT
from benchmarks.speed import compare, table
from pod import FAST_COMPILATION


@pytest.mark.skipif(
    None in map(importlib.util.find_spec, ("torch", "transformers")), reason="no PyTorch peer"
)
def test_the_command_as_a_whole(tmp_path):
    output = tmp_path / "result.json"
    flags = {
        "variants": "tiny",
        "sizes": 28,
        "dtypes": "float32",
        "batch": 2,
        "predict_batch": 2,
        "shape": "29,23,5",
        "rows": "encoder",
        "peer_modes": "eager",
        "rounds": 1,
        "seconds": 0,
        "output": output,
    }
    command = [sys.executable, "-m", "benchmarks", "--tiny", "--no_scaling"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": FAST_COMPILATION, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert result["problems"] == []
    (case,) = result["cases"]
    assert case["wrong"] == []
    kinds = compare.by_kind(case["differences"]["PyTorch"])
    assert set(kinds) == set(compare.TOLERANCES["float32"])
    timed = {(row["row"], row["side"]): row for row in case["rows"]}
    assert set(timed) == {("encoder", "JAX"), ("encoder", "PyTorch")}
    for row in timed.values():
        assert row["seconds"]["median"] > 0
        assert 0 < row["matmul_fraction"] < math.inf
    assert "| encoder |" in done.stdout and "Largest relative difference" in done.stdout
    # The same result, were the peer not there.
    timed["encoder", "PyTorch"].pop("seconds")
    timed["encoder", "PyTorch"]["skipped"] = "no | torch"
    assert "not run: no / torch" in table.report(result)
