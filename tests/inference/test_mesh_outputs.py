"""Surfaces and scenes beside the masks, of a model that is a function: formats, spaces, again."""

import logging
import os
import re
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest

from lagseg_jax.imaging import mesh
from lagseg_jax.imaging.mesh import MeshOptions
from lagseg_jax.inference import files
from lagseg_jax.inference.cases import predict_cases
from lagseg_jax.inference.files import plan_outputs
from lagseg_jax.inference.inputs import find_inputs
from lagseg_jax.inference.request import Request
from lagseg_jax.predict import parse_arguments
from lagseg_jax.runtime.errors import InputError
from stand_in_segmenter import ball, segmenter_of_probability

ARGUMENTS = ["--workdir", "run", "-i", "in", "-o", "out"]


@pytest.fixture
def segmenter(tmp_path):
    """Of one case, a ball that gets darker outwards, as its probability does."""
    pytest.importorskip("fast_simplification")
    probability = ball((17, 19, 13), (8, 9, 6), 1.0)
    (tmp_path / "in").mkdir()
    image = nibabel.Nifti1Image(100 * probability, np.diag([1, 2, 3, 1]))
    nibabel.save(image, tmp_path / "in" / "a.b.nii.gz")
    return segmenter_of_probability(probability)


def planned(tmp_path, space="RAS"):
    wanted = {"mesh": MeshOptions("ply", space), "scene": True}
    jobs = plan_outputs(find_inputs(tmp_path / "in"), tmp_path / "out", **wanted)
    ((_, outputs),) = jobs.items()
    return jobs, outputs


def test_a_surface_and_its_scene_are_there_said_and_may_be_replaced(segmenter, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lagseg_jax")
    for _ in range(2):  # the second call knows what the first one made
        jobs, outputs = planned(tmp_path)
        assert len(predict_cases(segmenter, jobs, Request([])).rows) == 1
    assert outputs.mesh == tmp_path / "out" / "meshes_RAS" / "a.b.ply"
    assert b"SPACE=RAS" in outputs.mesh.read_bytes()[:200]
    assert f"{outputs.mesh}: " in caplog.text and "triangles in mm, RAS, volume " in caplog.text
    scene = ElementTree.parse(tmp_path / "out" / "scenes" / "a.b.mrml").getroot()
    found = [element.get("fileName") for element in scene if element.get("fileName")]
    places = [os.path.normpath(tmp_path / "out" / "scenes" / place) for place in found]
    expected = [tmp_path / "in" / "a.b.nii.gz", outputs.mask, outputs.mesh]
    assert places == [str(path) for path in expected]
    # In the other space it is another file, so that no program takes the one for the other.
    assert not planned(tmp_path, "LPS")[1].complete() and outputs.complete()


def test_a_scene_leaves_out_a_surface_that_could_not_be_written(segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "write_surface", lambda *_: (_ for _ in ()).throw(OSError(28, "")))
    jobs, outputs = planned(tmp_path)
    assert not predict_cases(segmenter, jobs, Request([])).rows
    assert outputs.mask.exists() and not outputs.mesh.exists()
    assert "<Model" not in outputs.scene.read_text()


def test_the_surface_of_noise_costs_neither_memory_nor_the_mask(
    segmenter, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(mesh, "MAX_FACES", 100)
    jobs, outputs = planned(tmp_path)
    predicted = predict_cases(segmenter, jobs, Request([]))
    assert not predicted.rows and not predicted.full
    assert outputs.mask.exists() and not outputs.mesh.exists()
    assert re.search(r"a\.b\.ply cannot be written: .* has \d+ voxel faces, exp", caplog.text)


@pytest.mark.parametrize(
    ("option", "found"),
    [
        ("--mesh_format=slt", "--mesh_format is 'slt', expected one of stl, ply, vtk, did you"),
        ("--mesh_space=ras", "--mesh_space is 'ras', expected one of LPS, RAS"),
        ("--mesh_triangles=-1", "--mesh_triangles is -1, expected 0 or more"),
    ],
)
def test_options_that_cannot_be(option, found):
    with pytest.raises(InputError, match=found):
        parse_arguments([*ARGUMENTS, option])
