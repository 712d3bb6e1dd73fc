"""predict into a folder that is not empty: what stays, and what is made anew."""

import json
import logging
import shutil

import nibabel
import numpy as np
import pytest

from predict_calls import call, names_in, rows_of, scan

pytestmark = pytest.mark.usefixtures("console_for_caplog")


def test_resume_skips_finished_ones(finished_run, inputs, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "lagseg_jax")
    (inputs / "bad.nii.gz").unlink()
    output = tmp_path / "out"
    assert call("--workdir", finished_run, "-i", inputs / "b.nii", "-o", output) == 0
    before = (output / "b.nii").stat().st_mtime_ns
    everything = ("--workdir", finished_run, "-i", inputs, "-o", output, "--resume")
    assert call(*everything) == 0
    assert (output / "b.nii").stat().st_mtime_ns == before
    assert len(names_in(output)) == 3 and "already there: 1" in caplog.text
    # Nothing left to do needs no model at all.
    monkeypatch.setattr("lagseg_jax.inference.predict_files._load", None)
    assert call(*everything) == 0


def test_nothing_that_predict_did_not_make_is_replaced(finished_run, one_case, tmp_path, capsys):
    """Labels of a dataset, masks of others, and our own that somebody has corrected."""
    image = nibabel.load(one_case)
    label = nibabel.Nifti1Image((np.asarray(image.dataobj) > 100).astype(np.uint8), image.affine)
    for layout, name in (("nnunet", "a_0000.nii.gz"), ("msd", "a.nii.gz")):
        for folder, file, what in (("imagesTr", name, image), ("labelsTr", "a.nii.gz", label)):
            (tmp_path / layout / folder).mkdir(parents=True)
            nibabel.save(what, tmp_path / layout / folder / file)
        labels = tmp_path / layout / "labelsTr"
        before = (labels / "a.nii.gz").read_bytes()
        assert call("--workdir", finished_run, "-i", tmp_path / layout, "-o", labels) == 2
        assert "labels, expected another --output" in capsys.readouterr().err
        assert names_in(labels) == ["a.nii.gz"] and (labels / "a.nii.gz").read_bytes() == before
    how = ("--workdir", finished_run, "-i", tmp_path / "msd" / "imagesTr", "-o", labels)
    assert call(*how) == 2 and "was not made" in capsys.readouterr().err
    assert (labels / "a.nii.gz").read_bytes() == before
    how = ("--workdir", finished_run, "-i", one_case, "-o", tmp_path / "out")
    assert call(*how) == 0 and call(*how) == 0
    nibabel.save(label, tmp_path / "out" / "a.nii.gz")
    assert call(*how) == 2 and "has been changed" in capsys.readouterr().err
    assert call("--workdir", finished_run, "-i", one_case, "-o", one_case / "out") == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_resume_makes_anew_what_another_input_or_option_made(
    finished_run, one_case, phantom, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "lagseg_jax")
    how = ["--workdir", finished_run, "-i", one_case.parent, "-o", tmp_path / "out", "--resume"]

    def to_do(*options):
        caplog.clear()
        assert call(*how, *options) == 0
        return "to do: 0" not in caplog.text

    assert to_do() and not to_do()
    assert to_do("--keep_components=2") and to_do()
    other = phantom / "task2" / "train_data" / "train_2" / "enhanced.nii.gz"
    shutil.copy(other, one_case)
    assert to_do() and not to_do()
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["predict"]["threshold"] = 0.4
    (copy / "config.json").write_text(json.dumps(config))
    how[1] = copy
    assert to_do() and not to_do()


def test_masks_of_another_model_are_not_replaced_without_a_word(
    finished_run, one_case, tmp_path, caplog
):
    how = ["-i", one_case, "-o", tmp_path / "out"]
    for _ in range(2):
        assert call("--workdir", finished_run, *how) == 0
    assert "replaces" not in caplog.text
    assert call("--workdir", finished_run, finished_run, *how) == 0
    assert f"replaces 1 mask that {finished_run} made" in caplog.text


def test_a_case_that_fails_keeps_no_older_mask_and_tables_are_merged(
    finished_run, phantom, one_case, tmp_path
):
    out = tmp_path / "out"
    how = ["--workdir", finished_run, "-o", out, "--statistics"]
    assert call(*how, "-i", one_case) == 0
    second = scan(phantom, tmp_path / "b.nii.gz")
    assert call(*how, "-i", second) == 0
    assert list(rows_of(out)) == ["b", "a"]
    assert str(finished_run) in rows_of(out)["a"]["workdirs"]
    one_case.write_bytes(b"damaged")
    assert call(*how, "-i", one_case) == 2
    assert not (out / "a.nii.gz").exists() and list(rows_of(out)) == ["b"]
    assert len((out / "statistics.csv").read_text().splitlines()) == 2


def test_older_outputs_stay_only_while_they_are_true(finished_run, one_case, tmp_path):
    """A preview is kept beside the same mask, and goes with the mask that it showed."""
    out = tmp_path / "out"
    how = ("--workdir", finished_run, "-i", one_case, "-o", out)
    preview = out / "previews" / "a.png"
    assert call(*how, "--preview") == 0 and call(*how) == 0 and preview.exists()
    assert call(*how, "--preview") == 0 and preview.exists()
    assert call(*how, "--keep_components=0") == 0 and not preview.exists()
