"""The loop over cases, with a model that is a function: what overlaps computing, in order."""

import errno
import logging
import re
import threading
import time
import weakref
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dicom_series import write_series
from lagseg_jax.imaging import overlay
from lagseg_jax.imaging.mesh import MeshOptions
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.inference.cases import AHEAD, predict_cases
from lagseg_jax.inference.files import Outputs, plan_outputs
from lagseg_jax.inference.input_volume import Input
from lagseg_jax.inference.inputs import find_inputs
from lagseg_jax.inference.postprocess import PostProcessing
from lagseg_jax.inference.records import Record
from lagseg_jax.inference.request import Request
from lagseg_jax.runtime.errors import InputError
from stand_in_segmenter import ball, segmenter_of, segmenter_of_probability

SECONDS = 30  # for another thread to come


@pytest.fixture
def jobs(tmp_path):
    """Four cases; the mask of each is its image, which is as bright as its number."""
    (tmp_path / "in").mkdir()
    for number in range(4):
        image = np.zeros((7, 5, 3), np.int16)
        image[0, :, 0] = -np.arange(1, 6)  # grey values, and no mask
        image[1 : 2 + number, 2, 1] = number + 1
        path = tmp_path / "in" / f"{number}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(image, np.diag([2, 2, 3, 1])), path)
    return plan_outputs(find_inputs(tmp_path / "in"), tmp_path / "out")


def threshold(volume, tta, post, probable=False):
    return (volume > 0).astype(np.uint8)


def test_cases_are_read_while_the_one_before_is_computed(jobs, monkeypatch):
    """As many as there is room for, and not one more."""
    read, enough, computed = [], threading.Event(), []
    found = Input.read

    def reading(self, *arguments):
        read.append(self.name)
        if len(read) == 1 + AHEAD:
            enough.set()
        return found(self, *arguments)

    def compute(volume, tta, post, probable=False):
        if not computed:
            assert enough.wait(SECONDS), "the next cases were not read"
        computed.append(volume.max())
        assert len(read) <= len(computed) + AHEAD
        return threshold(volume, tta, post)

    monkeypatch.setattr(Input, "read", reading)
    predict_cases(segmenter_of(compute), jobs, Request([]))
    assert computed == [1, 2, 3, 4] and sorted(read) == ["0", "1", "2", "3"]


def test_a_case_is_written_while_the_next_one_is_computed(jobs, monkeypatch):
    started = [threading.Event() for _ in range(5)]
    started[4].set()  # there is no fifth case
    write = Outputs.write

    def compute(volume, *others):
        started[volume.max() - 1].set()
        return threshold(volume, *others)

    def waiting(self, *arguments):
        assert started[int(self.mask.name[0]) + 1].wait(SECONDS), "the next case was not started"
        return write(self, *arguments)

    monkeypatch.setattr(Outputs, "write", waiting)
    rows = predict_cases(segmenter_of(compute), jobs, Request([])).rows
    assert [row["voxels"] for row in rows.values()] == [1, 2, 3, 4]
    for number, outputs in enumerate(jobs.values(), 1):
        assert read_volume(outputs.mask).array.sum() == number


@pytest.mark.parametrize("cut", [0.25, 0.5, 0.8])
def test_mask_and_surface_are_where_the_probability_is_the_threshold(tmp_path, cut):
    """A ball whose probability falls by 0.1 per voxel, from 1.2 in its centre; voxels of 1 mm."""
    pytest.importorskip("fast_simplification")
    probability = ball((31, 29, 27), (15, 14, 13), 1.2)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(100 * probability, np.eye(4)), tmp_path / "in" / "a.nii.gz")
    segmenter = segmenter_of_probability(probability, cut)
    wanted = {"probability": True, "mesh": MeshOptions()}
    jobs = plan_outputs(find_inputs(tmp_path / "in"), tmp_path / "out", **wanted)
    (row,) = predict_cases(segmenter, jobs, Request([])).rows.values()
    ((_, outputs),) = jobs.items()
    np.testing.assert_array_equal(read_volume(outputs.mask).array, probability >= cut)
    assert row["voxels"] == (probability >= cut).sum()
    stl = np.frombuffer(
        outputs.mesh.read_bytes()[84:], [("", "<f4", 3), ("v", "<f4", (3, 3)), ("", "<u2")]
    )
    radius = np.linalg.norm(stl["v"].reshape(-1, 3) * [-1, -1, 1] - (15, 14, 13), axis=1)
    np.testing.assert_allclose(radius, 12 - 10 * cut, atol=0.2)


def test_a_review_page_shows_the_case_and_costs_no_mask(tmp_path, jobs):
    plans = plan_outputs(list(jobs), tmp_path / "out", review=True)
    seen = {}

    def case_page(path, title, content):
        seen[path.name] = title, content
        if path.name == "1.html":
            raise OSError(errno.EACCES, "not allowed")
        path.write_text("page")

    segmenter = segmenter_of(threshold)
    done = predict_cases(segmenter, plans, Request([], case_page=case_page))
    assert [one.name for one in done.rows] == ["0", "2", "3"] and list(seen) == [
        f"{number}.html" for number in range(4)
    ]
    assert all(outputs.mask.is_file() for outputs in plans.values())
    title, content = seen["2.html"]
    assert title == "2: 0.0 mL" and content["shape"] == [3, 5, 7] and not content["truth"]
    assert content["grey"][0] < 0  # the grey values were kept for it


def test_headers_that_make_no_dicom_object_cost_no_mask(tmp_path, caplog):
    """--dicom_seg needs more of the headers than the mask does."""
    pixels = np.random.default_rng(0).integers(0, 99, (5, 7, 11)).astype(np.uint16)
    write_series(tmp_path / "in", pixels, FrameOfReferenceUID="")
    plans = plan_outputs(find_inputs(tmp_path / "in"), tmp_path / "out", segmentation=True)
    about = {"runs": []}
    assert not predict_cases(segmenter_of(threshold), plans, Request([]), about).rows
    ((one, outputs),) = plans.items()
    assert outputs.mask.is_file() and not outputs.segmentation.exists()
    assert f"{outputs.segmentation} cannot be written: " in caplog.text
    assert "no FrameOfReferenceUID" in caplog.text
    files = Record.of(tmp_path / "out", one.name).content["files"]
    assert list(files) == [outputs.mask.name] and files[outputs.mask.name]


def test_pictures_show_the_window_of_the_model(tmp_path, jobs, monkeypatch):
    plans = plan_outputs(list(jobs)[:1], tmp_path / "out", preview=True, review=True)
    seen = []
    monkeypatch.setattr(overlay, "write_overlay", lambda path, *rest: seen.append(rest[-1]))
    request = Request([], case_page=lambda path, title, content: seen.append(content["grey"]))
    predict_cases(segmenter_of(threshold, (-3.0, 2.0)), plans, request)
    assert [tuple(one) for one in seen] == [(-3, 2), (-3, 2)]


def test_a_few_cases_wait_for_the_disk(jobs, monkeypatch):
    masks, alive = [], []

    def compute(*arguments):
        alive.append(sum(mask() is not None for mask in masks))
        mask = threshold(*arguments)
        masks.append(weakref.ref(mask))
        return mask

    write = Outputs.write

    def slow(self, *arguments):
        time.sleep(0.1)
        return write(self, *arguments)

    monkeypatch.setattr(Outputs, "write", slow)
    predict_cases(segmenter_of(compute), jobs, Request([]))
    assert len(alive) == 4 and max(alive) == AHEAD


def test_what_fails_is_reported_in_its_turn(jobs, monkeypatch, caplog):
    """The second case cannot be computed, the third not be written."""
    caplog.set_level(logging.INFO, "lagseg_jax")
    write = Outputs.write

    def compute(volume, *others):
        if volume.max() == 2:
            raise InputError("it is the second")
        return threshold(volume, *others)

    def full(self, *arguments):
        if self.mask.name == "2.nii.gz":
            raise OSError(28, "No space left on device")
        return write(self, *arguments)

    monkeypatch.setattr(Outputs, "write", full)
    rows = predict_cases(segmenter_of(compute), jobs, Request([])).rows
    assert [one.name for one in rows] == ["0", "3"]
    said = [record.getMessage() for record in caplog.records]
    assert [sentence.split()[0] for sentence in said] == ["1/4", "2/4", "3/4", "4/4"]
    assert re.fullmatch(r"2/4 error: /.*/1\.nii\.gz: it is the second", said[1])
    assert said[2].startswith("3/4 error: ") and "No space left" in said[2]
    assert [path.exists() for path in (o.mask for o in jobs.values())] == [True, False, False, True]


def test_an_unexpected_error_of_the_writer_is_not_lost(jobs, monkeypatch):
    def broken(self, *arguments):
        if self.mask.name == "3.nii.gz":  # the last one: no other case comes after it
            raise ZeroDivisionError
        return {}

    monkeypatch.setattr(Outputs, "write", broken)
    with pytest.raises(ZeroDivisionError):
        predict_cases(segmenter_of(threshold), jobs, Request([]))


def test_what_is_asked_for_has_precedence_over_the_run(jobs):
    asked = []

    def compute(volume, tta, post, probable=False):
        asked.append((post, tta))
        return threshold(volume, tta, post)

    segmenter = segmenter_of(compute)
    predict_cases(segmenter, jobs, Request([]))
    predict_cases(segmenter, jobs, Request([], components=0, min_mm3=5.0, tta=True))
    assert asked[0] == (PostProcessing(0.25, 2, 1.5), False)
    assert asked[4] == (PostProcessing(0.25, 0, 1.5, 5.0), True)


def test_masks_never_replace_their_inputs(jobs):
    one = next(iter(jobs))
    folder = Path(one.source).parent
    with pytest.raises(InputError, match="would overwrite its input"):
        plan_outputs([one], folder)
    with pytest.raises(InputError, match="is a file, expected a folder"):
        plan_outputs([one], one.source)
