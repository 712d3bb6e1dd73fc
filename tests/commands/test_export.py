"""The exported file runs without this package, on any slices, and gives the Segmenter's answer."""

import json
import re
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from lagseg_jax import export, load_segmenter
from lagseg_jax.imaging.grey_values import grey_range
from lagseg_jax.imaging.slices import resize_matrices, restore_matrices, to_slices
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.inference.export import PLATFORMS, export_function, flat_weights, traced_matrices
from lagseg_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def segmenter(finished_run):
    return load_segmenter(finished_run)


@pytest.fixture(scope="module")
def file(finished_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "atrium.safetensors"
    assert export.main(["--workdir", str(finished_run), "--output", str(path)]) == 0
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return path


def documented_code():
    """The lines of the module's docstring that load and call the file."""
    lines = export.__doc__.splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("    "))


def test_loaded_as_documented_without_this_package(file, segmenter, phantom, tmp_path):
    image = read_volume(phantom / "task2" / "train_data" / "train_2" / "enhanced.nii.gz")
    slices, _ = to_slices(image.array, image.affine)
    np.save(tmp_path / "volume.npy", slices)
    (tmp_path / "atrium.safetensors").symlink_to(file)
    program = (
        "import numpy as np\nvolume = np.load('volume.npy')\nslices = volume.astype(np.float32)\n"
        + documented_code()
        + "\nnp.save('probability.npy', probability)\nnp.save('three.npy', predict(weights, "
        "slices[3:6, :, 5:40], grey))\n"
        "import sys; print(*{name.partition('.')[0] for name in sys.modules})\n"
        "print(json.dumps(card))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    modules, card = done.stdout.strip().splitlines()
    assert "jax" in modules.split() and not {"lagseg_jax", "flax"} & set(modules.split())
    expected = segmenter.predict_probability(image.array, image.spacing, image.affine)
    expected, _ = to_slices(expected, image.affine)
    found = np.load(tmp_path / "probability.npy")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.load(tmp_path / "three.npy").shape == (3, slices.shape[1], 35)

    card = json.loads(card)
    assert card["output"]["threshold"] == segmenter.config.predict.threshold
    assert card["output"]["smooth_mm"] == segmenter.config.predict.smooth_mm == 0
    assert card["input"]["clip_percentiles"] == list(segmenter.config.data.clip_percentiles)
    assert card["inside"]["image_size"] == 42 and card["platforms"] == list(PLATFORMS)
    assert card["encoder"]["sha256"] == segmenter.encoder.sha256
    assert "random" in card["encoder"]["warning"] and "Not a medical device" in card["intended_use"]
    assert card["training"]["cases"] == {"train": 3, "validation": 1, "test": 2}
    assert (
        card["training"]["step"] == segmenter.step and 0 <= card["evaluation"]["dice"]["mean"] <= 1
    )


def test_the_program_is_portable(segmenter):
    """No code of one platform: cuDNN or oneDNN calls would run on that one only."""
    exported = export_function(segmenter)
    assert exported.platforms == PLATFORMS and exported.nr_devices == 1
    assert exported.in_avals[-2].shape[0] != exported.in_avals[-2].shape[1]
    called = set(re.findall(r"custom_call @([\w$.]+)", exported.mlir_module()))
    assert called <= {"Sharding", "shape_assertion"}, called
    assert not any(exported.disabled_safety_checks)


@pytest.mark.parametrize("shape", [(47, 43), (42, 42), (31, 211), (640, 641), (1, 9)])
def test_matrices_for_any_shape_are_those_of_the_segmenter(shape):
    there, back = jax.jit(lambda x: traced_matrices(*x.shape, 42))(np.zeros(shape))
    expected = (*resize_matrices(*shape, 42), *restore_matrices(*shape, 42))
    for found, matrix in zip((*there, *back), expected):
        np.testing.assert_allclose(found, matrix, atol=1e-6)


def test_every_weight_is_in_the_file(file, segmenter):
    from safetensors import safe_open

    weights = flat_weights(segmenter)
    with safe_open(file, "numpy") as content:
        assert set(content.keys()) == {*weights, "stablehlo"}
        for name, array in weights.items():
            np.testing.assert_array_equal(content.get_tensor(name), np.asarray(array))


@pytest.mark.parametrize(
    ("output", "found"),
    [("model.pkl", ".safetensors"), ("no/such/a.safetensors", "no/such"), (".", "file name")],
)
def test_refuses_bad_places_at_once(finished_run, tmp_path, output, found):
    with pytest.raises(InputError, match=re.escape(found)):
        export.main(["--workdir", str(finished_run), "--output", str(tmp_path / output)])


def test_refuses_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        export.main(["--workdir", str(tmp_path), "--output", str(tmp_path / "a.safetensors")])


@pytest.mark.parametrize("margin", [0, 30])
def test_grey_range_of_the_docstring_is_the_segmenters(segmenter, phantom, margin):
    """The documented lines are what prediction uses, for every volume with contrast."""
    image = read_volume(phantom / "task2" / "train_data" / "train_1" / "enhanced.nii.gz")
    volume = np.pad(image.array, ((0, 0), (margin, margin), (margin, 0)))
    percentiles = segmenter.config.data.clip_percentiles
    _, edges, code = export.__doc__.partition("edges = [")
    code = textwrap.dedent("    " + edges + code.partition("    probability =")[0])
    for window in ([], [-150.0, 850.5]):
        card = {"input": {"clip_percentiles": percentiles, "window": window}}
        names = {"np": np, "volume": volume, "card": card}
        exec(code, names)
        np.testing.assert_array_equal(grey_range(volume, percentiles, window), names["grey"])
