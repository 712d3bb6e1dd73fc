"""The package runs without TensorFlow and torch, and asks for JAX only when it computes."""

import os
import subprocess
import sys

MODULES = (
    "main predict training.loop evaluation.evaluate inference.segmenter model.weights data.split "
    "data.phantom imaging.overlay runs.checkpoint runs.metrics_log"
).split()


def imported(code, folder):
    """The top-level modules that a fresh Python has loaded after `code`."""
    path = os.pathsep.join([str(folder), *sys.path])
    code += "\nprint(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", "import sys\n" + code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_neither_tensorflow_nor_torch_nor_a_client_of_the_hub_is_imported(tmp_path):
    """Empty packages of these names make even an attempt visible where they are not installed."""
    never = {"tensorflow", "torch", "huggingface_hub"}
    for name in never:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    assert imported(f"import {', '.join(never)}", tmp_path) >= never
    code = "\n".join(f"import lagseg_jax.{module}" for module in MODULES)
    code += "\nimport weight_conversion.convert"
    code += f"\nlagseg_jax.runs.metrics_log.MetricsWriter({str(tmp_path)!r}, {{}}, 0).close()"
    found = imported(code, tmp_path)
    assert "jax" in found and not found & never


def test_files_and_metrics_need_no_jax(tmp_path):
    """So errors in files and options are printed at once."""
    modules = (
        "imaging.volume imaging.slices config.validate data.layouts.detect data.split data.phantom "
        "data.quality data.prepare evaluation.metrics evaluation.statistics runtime.errors "
        "check compare info main report"
    ).split()
    found = imported("\n".join(f"import lagseg_jax.{module}" for module in modules), tmp_path)
    assert "numpy" in found and "jax" not in found
