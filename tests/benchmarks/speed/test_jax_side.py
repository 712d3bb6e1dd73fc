"""benchmarks.speed: what is timed in JAX is what it is called."""

import jax

from benchmarks.speed import scaling_worker
from benchmarks.speed.cases import Case
from benchmarks.speed.jax_rows import jax_rows
from benchmarks.speed.problem import make_problem
from lagseg_jax.inference import segmenter


def test_inference_memory_does_not_grow_with_depth():
    shallow, deep = scaling_worker.depth_memory("tiny", 56, 2, "float32")
    assert 0 < deep["value"] < 1.1 * shallow["value"]


def test_the_searched_volume_leaves_slices_out(monkeypatch, tmp_path):
    """What is timed there computes all slices of the middle two thirds, and not all others."""
    problem = make_problem(Case("tiny", 28, 2, "float32", 1, (29, 23, 33)))
    counts = []
    for row in ("volume", "searched volume"):
        call, _ = jax_rows(problem, tmp_path)[row]()
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
