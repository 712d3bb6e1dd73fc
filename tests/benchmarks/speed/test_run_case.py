"""benchmarks.speed: which cases and rows, in which order, and how outputs are compared."""

import threading

import numpy as np
import pytest

from benchmarks.__main__ import parse_arguments, set_defaults
from benchmarks.speed import ceilings, compare, run_case
from benchmarks.speed.cases import choose


def test_roofline_takes_the_slower_of_arithmetic_and_memory():
    layers = [(100, 10), (10, 100)]
    assert ceilings.roofline_seconds(layers, matmul=10, copy=5) == 10 + 20


@pytest.mark.parametrize("at_once", [True, False])
def test_workers_do_not_wait_for_each_other_on_an_accelerator(at_once):
    """The modes of one worker always do: it answers one command at a time."""
    ours, peer, order = object(), object(), []
    meeting = threading.Barrier(2)

    def call(side):
        order.append(side.name)
        if at_once and side.name != "compiled":
            meeting.wait(timeout=60)

    workers = {"ours": ours, "eager": peer, "compiled": peer}
    sides = [run_case.Side(name, worker, {}, None) for name, worker in workers.items()]
    run_case._each(sides, call, at_once)
    if not at_once:
        assert order == ["ours", "eager", "compiled"]
    assert sorted(order[:2]) == ["eager", "ours"] and order[2] == "compiled"


def test_what_is_quick_depends_on_the_device():
    options = parse_arguments(["--quick"])
    set_defaults(options, "cpu")
    assert options.peer_modes == ["eager"] and not options.at_once
    assert all(case.rows == () for case in choose("cpu", options))
    options.peer_modes = options.minutes = None
    set_defaults(options, "gpu")
    assert options.peer_modes == ["compile"] and options.at_once and options.minutes < 8
    giant, base = choose("gpu", options)
    assert {"encoder", "volume", "train step", "input"} == set(giant.rows)
    assert set(giant.rows + base.rows) <= set(run_case.PREDICTION + run_case.TRAINING)
    assert all(case.rows == () for case in choose("gpu", parse_arguments([])))


def test_differences_are_found(tmp_path):
    rng = np.random.default_rng(0)
    right = {name: rng.random((5, 7)) for name in ("tokens", "logits", "probability")}
    right |= {"loss": np.array(0.7), "gradient/a": rng.random(11), "gradient/b": rng.random(3)}
    np.savez(tmp_path / "right.npz", **right)
    np.savez(tmp_path / "wrong.npz", **right | {"gradient/b": -right["gradient/b"]})
    np.savez(tmp_path / "nan.npz", **right | {"loss": np.array(np.nan)})
    np.savez(tmp_path / "less.npz", **{k: v for k, v in right.items() if k != "gradient/a"})

    def wrong(name):
        found = compare.differences(tmp_path / "right.npz", tmp_path / name)
        return compare.too_large(found, "bfloat16")

    assert wrong("right.npz") == []
    assert wrong("wrong.npz") == ["gradient/b"]
    assert wrong("nan.npz") == ["loss"]
    with pytest.raises(ValueError, match="gradient/a"):
        wrong("less.npz")
