"""python -m benchmarks.regression: ratios, their noise, and which of them fail."""

import json

import numpy as np
import pytest

from benchmarks.common.timing import summary
from benchmarks.regression import main, ratio_interval
from lagseg_jax.runtime.errors import InputError

FACTS = {"device": "cpu", "versions": {"jax": "0.10.2"}}


def rounds(median, noise, seed):
    """Three rounds of seven calls."""
    generator = np.random.default_rng(seed)
    return [list(generator.normal(median, noise, 7)) for _ in range(3)]


@pytest.fixture
def result(tmp_path):
    """Writes a result with rows {(row, side): rounds}; returns its path."""

    def write(name, rows, cpu="A", **versions):
        rows = [
            {"row": row, "side": side} | ({"seconds": summary(r)} if r else {"skipped": "no time"})
            for (row, side), r in rows.items()
        ]
        software = {"JAX": FACTS | {"versions": FACTS["versions"] | versions}}
        content = {"machine": {"cpu": cpu, "cores": 2, "git": name}, "software": software}
        content["cases"] = [{"title": "small | 448", "rows": rows}]
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return str(path)

    return write


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Calls of one round share an error, which an interval over calls alone would miss."""
    generator, inside = np.random.default_rng(3), 0
    for _ in range(60):
        a, b = (
            [list(t + generator.normal(0, 0.02, 7)) for t in generator.normal(1, 0.02, 6)]
            for _ in range(2)
        )
        _, low, high = ratio_interval(a, b)
        inside += low <= 1 <= high
    assert inside >= 50
    ratio, low, high = ratio_interval([[2.0, 2.0], [2.0]], [[3.0]])
    assert ratio == low == high == 1.5


def test_only_what_is_slower_beyond_the_noise_fails(result, capsys):
    ours, peer = ("step", "JAX"), ("step", "PyTorch")
    old = result("old", {ours: rounds(1, 0.01, 0), peer: rounds(1, 0.01, 1)})
    same = result("same", {ours: rounds(1.02, 0.01, 2), peer: rounds(1.5, 0.01, 3)}, jax="0.12.0")
    assert main([old, same]) == 0  # of ours; the peer's row is a control
    out = capsys.readouterr().out
    assert "differs: JAX jax 0.10.2, then 0.12.0" in out and "differs: commit old, then same" in out
    assert [line.endswith("slower |") for line in out.splitlines() if "PyTorch" in line] == [True]
    assert r"small \| 448" in out
    noisy = result("noisy", {ours: rounds(1.2, 0.5, 4)})
    assert main([old, noisy]) == 0
    slow = result("slow", {ours: rounds(1.2, 0.01, 4)})
    assert main([old, slow]) == 1 and main([old, slow, "--threshold=0.3"]) == 0
    assert main([slow, old]) == 0
    capsys.readouterr()
    gone = result("gone", {("other", "JAX"): rounds(1, 0.01, 0), ours: None})
    assert main([old, gone]) == 1
    assert "gone" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused(result, tmp_path):
    rows = {("step", "JAX"): rounds(1, 0.01, 0)}
    old, other = result("old", rows), result("other", rows, cpu="B")
    with pytest.raises(InputError, match=r"another machine .*cpu A, then B"):
        main([old, other])
    assert main([old, other, "--other_machine"]) == 0
    with pytest.raises(InputError, match="no row was measured"):
        main([old, result("empty", {})])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="expected a result of"):
        main([old, str(tmp_path / "x.json")])
