"""benchmarks/: work on paper against XLA's count; both workers agree; the command as a whole."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from benchmarks import ceilings, compare, cost, feature_cache, ours_rows, run_case, scaling, table
from benchmarks.__main__ import parse_arguments, set_defaults
from benchmarks.cases import Case, choose
from benchmarks.problem import make_problem
from benchmarks.rounds import in_turn, summary
from benchmarks.worker import ROOT, Worker, WorkerError
from lagseg_jax.config.choices import VARIANTS
from lagseg_jax.inference import segmenter
from lagseg_jax.model.decoder import Decoder
from lagseg_jax.model.encoder import Encoder, EncoderSpec
from lagseg_jax.model.weights import param_structs


def flops(layers):
    return sum(layer.flops for layer in layers)


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def xla_flops(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_cost_of_layers_by_hand():
    layers = cost.encoder(EncoderSpec("small"), 1, 448)
    qkv = next(layer for layer in layers if layer.name == "qkv")
    assert qkv.flops == 2 * 1025 * 384 * 1152
    assert qkv.elements == 1025 * 384 + 384 * 1152 + 1025 * 1152
    attention = next(layer for layer in layers if layer.name == "attention")
    assert attention.flops == 2 * (2 * 1025 * 1025 * 384)  # scores, and their product with values
    conv = cost.conv3x3("", 56 * 56, 128, 64)
    assert conv.flops == 2 * 56 * 56 * 64 * (128 * 9)
    # Known of these encoders: 63.3 and 214 GFLOP per image of 448 x 448.
    assert flops(layers) == pytest.approx(63.3e9, rel=2e-3)
    assert flops(cost.encoder(EncoderSpec("base"), 1, 448)) == pytest.approx(214e9, rel=3e-3)


@pytest.mark.parametrize(("variant", "close"), [("small", 0.05), ("giant", 0.01)])
def test_cost_of_the_encoder_is_what_xla_counts(monkeypatch, variant, close):
    # XLA counts the body of a loop once: one block.
    monkeypatch.setitem(VARIANTS, "one block", VARIANTS[variant] | {"depth": 1})
    spec = EncoderSpec("one block")
    params = {"params": unflatten_dict(param_structs(spec), sep="/")}
    counted = xla_flops(Encoder(spec).apply, params, struct(2, 224, 224, 3))
    assert flops(cost.encoder(spec, 2, 224)) == pytest.approx(counted, rel=close)


@pytest.mark.parametrize(
    ("image_path", "scales", "widths"),
    [("resized", (8, 4, 2, 1), (256, 128, 64, 32, 16)), ("pyramid", (8, 4, 2), (128, 96, 64, 32))],
)
def test_cost_of_the_decoder_is_what_xla_counts(image_path, scales, widths):
    decoder = Decoder(scales, widths, image_path=image_path)
    inputs = struct(len(widths), 1, 16, 16, 384), struct(1, 224, 224, 1)
    params = jax.eval_shape(decoder.init, jax.random.key(0), *inputs)
    layers = cost.decoder(384, 1, 224, scales, widths, image_path)
    counted = xla_flops(decoder.apply, params, *inputs)
    assert flops(layers) == pytest.approx(counted, rel=0.03)

    def total(params, fused, image):
        return decoder.apply(params, fused, image).sum()

    counted = xla_flops(jax.grad(total, argnums=(0, 1)), params, *inputs)
    assert flops(cost.with_backward(layers)) == pytest.approx(counted, rel=0.02)


def test_roofline_takes_the_slower_of_arithmetic_and_memory():
    layers = [(100, 10), (10, 100)]
    assert ceilings.roofline_seconds(layers, matmul=10, copy=5) == 10 + 20


def test_rounds_alternate():
    order = []

    def side(name, seconds):
        def measure(calls):
            order.append((name, calls))
            return [seconds] * calls

        return measure

    found = in_turn({"a": side("a", 1.0), "b": side("b", 0.1)}, rounds=2, seconds=0.5)
    assert order == [("a", 1), ("b", 1), ("a", 1), ("b", 5)]
    assert summary(found["b"])["count"] == 6
    assert summary([3.0, 1.0, 2.0])["median"] == 2


@pytest.mark.parametrize("at_once", [True, False])
def test_workers_do_not_wait_for_each_other_on_an_accelerator(at_once):
    """The modes of one worker always do: it answers one command at a time."""
    ours, peer, order = object(), object(), []
    meeting = threading.Barrier(2)

    def call(side):
        order.append(side)
        if at_once and side != "compiled":
            meeting.wait(timeout=60)

    sides = {"ours": (ours, {}), "eager": (peer, {}), "compiled": (peer, {})}
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


def test_a_worker_says_why_it_cannot(tmp_path):
    worker = Worker("benchmarks.no_such_module", sys.executable, tmp_path / "log")
    try:
        with pytest.raises(WorkerError, match="no_such_module"):
            worker.call("describe", timeout=60)
    finally:
        worker.close()


def test_inference_memory_does_not_grow_with_depth():
    shallow, deep = scaling.depth_memory("tiny", 56, 2, "float32")
    assert 0 < deep["value"] < 1.1 * shallow["value"]
    (kept,) = scaling.kept_tokens("small", 56, 2, "bfloat16")
    assert "bfloat16" in kept["what"]
    assert kept["value"] == 12 * 2 * 4 * 4 * 384 * 2 / 2**20


def test_break_even_of_cached_features(monkeypatch, capsys):
    monkeypatch.setattr(feature_cache, "tune", lambda: None)  # of this process, it would stay
    flags = ["--variant=tiny", "--size=28", "--dtype=float32", "--batch=2", "--slices=3"]
    assert feature_cache.main([*flags, "--steps=1"]) == 0
    words = capsys.readouterr().out
    assert "tiny, 28 pixels, float32, 0.00 MB per slice" in words
    assert "break-even after" in words or "never pays" in words


def test_the_searched_volume_leaves_slices_out(monkeypatch, tmp_path):
    """What is timed there computes all slices of the middle two thirds, and not all others."""
    problem = make_problem(Case("tiny", 28, 2, "float32", 1, (29, 23, 33)))
    counts = []
    for row in ("volume", "searched volume"):
        call, _ = ours_rows.ours_rows(problem, tmp_path)[row]()
        calls, real = [], segmenter.slice_probability

        def counted(*arguments, calls=calls, real=real):
            calls.append(1)
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(segmenter, "slice_probability", counted)
            call()
        counts.append(len(calls))
    each = len(jax.local_devices())
    assert counts[0] == -(-33 // each)
    assert -(-22 // each) <= counts[1] < counts[0]


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
        env=os.environ | {"XLA_FLAGS": ""},
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
