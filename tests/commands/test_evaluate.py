"""python -m lagseg_jax.evaluate: another dataset, judged beside a run that stays as it is."""

import csv
import json
import shutil

import nibabel
import nrrd
import numpy as np
import pytest

from lagseg_jax import evaluate, report
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.data.phantom import write_dataset
from lagseg_jax.data.quality import voxels_sha256
from lagseg_jax.evaluation.metrics import METRICS
from lagseg_jax.imaging.volume import parse_volume
from lagseg_jax.runs.lock import locked
from lagseg_jax.runs.voxel_hashes import read_voxel_hashes, write_voxel_hashes
from lagseg_jax.runtime.console import exit_status
from lagseg_jax.runtime.files import file_sha256


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Root of three CT-like phantoms that no run has seen."""
    root = tmp_path_factory.mktemp("other") / "hospital_b"
    sizes = {"shape": (43, 41, 13), "spacing": (2.5, 2.5, 5.0)}
    return write_dataset(root, cases=3, seed=7, family="ct", **sizes)


def call(*arguments):
    return exit_status(lambda: evaluate.main([str(argument) for argument in arguments]))


def snapshot(folder):
    return {path: file_sha256(path) for path in folder.rglob("*") if path.is_file()}


def rows_of(folder):
    with (folder / "per_case.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_run_stays_as_it_is_while_it_trains(finished_run, other, tmp_path):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    before = snapshot(workdir)
    with locked(workdir):  # as a training does
        before = snapshot(workdir)
        assert call(f"--workdir={workdir}", f"--data={other}") == 0
    folder = workdir / "evaluations" / "hospital_b"
    inside = {path: sha for path, sha in snapshot(workdir).items() if folder in path.parents}
    assert snapshot(workdir) == before | inside
    own = {path.name for path in (workdir / "evaluation").iterdir()}
    assert {path.name for path in folder.iterdir()} == own
    cases = detect(other).cases
    assert [row["case"] for row in rows_of(folder)] == [case.name for case in cases]
    for case, row in zip(cases, rows_of(folder)):
        label = np.asarray(nibabel.load(case.label).dataobj) > 0
        mask = np.asarray(nibabel.load(folder / "masks" / f"{case.name}.nii.gz").dataobj) > 0
        total = label.sum() + mask.sum()
        np.testing.assert_allclose(float(row["dice"]), 2 * (label & mask).sum() / total, rtol=1e-6)
    manifest = json.loads((folder / "manifest.json").read_text())
    about = {"run": str(workdir), "name": "hospital_b", "split": "", "seen_cases": []}
    about["partners"] = []
    assert manifest["external"] == about and manifest["dataset"]["root"] == str(other)
    page = (folder / "report.html").read_text()
    assert "run on hospital_b" in page and "No fair test" not in page
    (folder / "report.html").unlink()
    assert report.main([str(folder)]) == 0
    assert (folder / "report.html").read_text() == page


def test_the_same_test_cases_give_the_same_numbers(finished_run, phantom, tmp_path):
    before = snapshot(finished_run)
    split = finished_run / "splits.json"
    output = tmp_path / "out"
    arguments = (f"--workdir={finished_run}", f"--data={phantom}", f"--split={split}")
    assert call(*arguments, f"--output={output}") == 0
    assert snapshot(finished_run) == before  # so it may be read-only
    assert rows_of(output) == rows_of(finished_run / "evaluation")


def test_any_naming_some_cases_and_merged_labels(finished_run, other, tmp_path):
    data = tmp_path / "flat"
    data.mkdir()
    for case in detect(other).cases:
        shutil.copy(case.image, data / f"{case.name}-scan.nii.gz")
        image = nibabel.load(case.label)
        voxels = np.where(np.asarray(image.dataobj) > 0, 1, 0).astype(np.uint8)
        voxels[: len(voxels) // 2] *= 2
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), data / f"{case.name}-la.nii.gz")
    run = f"--workdir={finished_run}", "--output"
    assert call(*run, tmp_path / "a", f"--data={other}", "--exclude=train_2") == 0
    naming = "--images=*-scan.nii.gz", "--labels=*-la.nii.gz", "--label_value=1,2"
    chosen = "--cases=train_1", "--cases=train_3"
    assert call(*run, tmp_path / "b", f"--data={data}", *naming, *chosen) == 0
    assert rows_of(tmp_path / "b") == rows_of(tmp_path / "a")


def test_several_runs_are_an_ensemble(finished_run, other, tmp_path, capsys):
    """Twice the same model is that model; a partner counts, and its training cases, too."""
    runs = f"--data={other}", "--workdir", finished_run, finished_run
    assert call(*runs) == 2
    assert "--output is missing" in capsys.readouterr().err
    assert call(f"--workdir={finished_run}", f"--data={other}", f"--output={tmp_path / 'a'}") == 0
    assert call(*runs, f"--output={tmp_path / 'b'}") == 0
    for one, two in zip(rows_of(tmp_path / "a"), rows_of(tmp_path / "b"), strict=True):
        assert all(one[name] == two[name] for name in ("case", *METRICS))
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    (partner,) = manifest["external"]["partners"]
    assert partner["run"] == str(finished_run) and partner["seed"] == manifest["seed"]
    assert partner["checkpoint_step"] == manifest["checkpoint_step"]
    assert f"{finished_run.name} and 1 more on" in (tmp_path / "b" / "report.html").read_text()
    assert call(f"--workdir={finished_run}", f"--data={other}", f"--output={tmp_path / 'b'}") == 2

    learnt = shutil.copytree(finished_run, tmp_path / "learnt")
    hashes = read_voxel_hashes(learnt)
    train = json.loads((learnt / "splits.json").read_text())["train"]
    image = parse_volume(detect(other).cases[1].image)
    write_voxel_hashes(learnt, {**hashes, train[0]: voxels_sha256(image)})
    capsys.readouterr()
    several = "--workdir", finished_run, learnt
    assert call(f"--data={other}", *several, f"--output={tmp_path / 'c'}") == 2
    assert "'train_2'" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_cases_that_the_run_has_seen_are_named(finished_run, phantom, tmp_path, capsys):
    output = tmp_path / "out"
    split = json.loads((finished_run / "splits.json").read_text())
    # A copy under other names, as the same scans come with two data sets.
    data = tmp_path / "renamed"
    for number, name in enumerate([*split["train"][:1], *split["test"]]):
        folder = "task2/train_data"
        shutil.copytree(phantom / folder / name, data / folder / f"scan_{number}")
    arguments = (f"--workdir={finished_run}", f"--data={data}", f"--output={output}")
    assert call(*arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ") and "'scan_0'" in said and "scan_1" not in said
    assert "--allow=seen_case" in said and not output.exists()
    assert call(*arguments, "--allow=seen_case") == 0
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["external"]["seen_cases"] == ["scan_0"]
    assert "No fair test" in (output / "report.html").read_text()


def test_copies_in_other_files_are_seen_cases(finished_run, phantom, tmp_path, capsys):
    """In another format, with another affine, with axes turned about: the voxels count."""
    split = json.loads((finished_run / "splits.json").read_text())
    cases = {case.name: case for case in detect(phantom).cases}
    names = [*split["train"][:2], split["validation"][0], split["test"][0]]
    images = [nibabel.load(cases[name].image) for name in names]
    voxels = [np.asarray(image.dataobj) for image in images]
    data = tmp_path / "data"
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
    noisy = nibabel.Nifti1Image(voxels[0].astype(np.float32), images[0].affine + np.eye(4) * 1e-5)
    noisy.header["descrip"] = b"anonymised"
    nibabel.save(noisy, data / "images" / "a.nii")
    header = {"space": "left-posterior-superior", "space directions": np.diag([2.5, 2.5, 5.0])}
    nrrd.write(str(data / "images" / "b.nrrd"), voxels[1], header)
    turned = voxels[2].transpose(2, 0, 1)[::-1, :, ::-1]
    nibabel.save(nibabel.Nifti1Image(turned, np.eye(4)), data / "images" / "c.nii.gz")
    shutil.copy(cases[names[3]].image, data / "images" / "d.nii.gz")
    for key, name in zip("abcd", names):
        shutil.copy(cases[name].label, data / "labels" / f"{key}.nii.gz")
    out = f"--output={tmp_path / 'out'}", "--orientation=LPS"
    assert call(f"--workdir={finished_run}", f"--data={data}", *out) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "'a', 'b', 'c'" in said and "'d'" not in said and not (tmp_path / "out").exists()


def test_nothing_of_others_is_written_over(finished_run, other, tmp_path, capsys):
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "letter.txt").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    about = {"run": str(finished_run), "name": "x", "split": "", "seen_cases": []}
    about["partners"] = []
    record = {"external": about, "dataset": {"root": "/data/another"}}
    (elsewhere / "manifest.json").write_text(json.dumps(record))
    own = finished_run / "evaluation"
    for folder, found in ((strange, "letter.txt"), (own, "itself"), (elsewhere, "/data/another")):
        before = snapshot(folder)
        run = f"--workdir={finished_run}", f"--data={other}", f"--output={folder}"
        assert call(*run) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert str(folder) in said and found in said
        assert snapshot(folder) == before


def test_what_cannot_be_is_one_sentence_with_the_option(finished_run, other, tmp_path, capsys):
    data = tmp_path / "two_values"
    shutil.copytree(other, data)
    path = detect(data).cases[1].label
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj).copy()
    voxels[:2, :2, :2] = 7
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)
    run = f"--workdir={finished_run}", f"--data={data}", f"--output={tmp_path / 'out'}"
    for arguments, found in (
        (run, "--label_value"),
        ((*run, "--allow=seen_cas"), "did you mean seen_case"),
        ((*run, "--name=../evaluation"), "--name"),
        ((f"--workdir={tmp_path}", f"--data={data}"), "config.json"),
    ):
        assert call(*arguments) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: ") and found in said and "config.data" not in said
    assert call(*run, "--label_value=420") == 0


def test_what_a_training_refuses_is_no_test_set(finished_run, other, tmp_path, capsys):
    """The label of one case is another structure, those of two are exchanged with background."""
    data = tmp_path / "data"
    shutil.copytree(other, data)
    cases = detect(data).cases
    images = [nibabel.load(case.label) for case in cases]
    labels = [np.asarray(image.dataobj) > 0 for image in images]
    run = f"--workdir={finished_run}", f"--data={data}", f"--output={tmp_path / 'out'}"
    for changed, found in (
        ([labels[0], 500 * labels[1], labels[2]], "the only value of this label is 500"),
        ([~label for label in labels], "it seems to be inverted"),
    ):
        for case, image, label in zip(cases, images, changed):
            nibabel.save(nibabel.Nifti1Image(label.astype(np.int16), image.affine), case.label)
        assert call(*run) == 2
        said = capsys.readouterr().err
        assert found in said and "config.data" not in said
    assert not (tmp_path / "out").exists()


def test_a_test_set_of_any_naming(finished_run, other, tmp_path, capsys):
    """Named by patterns, some of its cases, beside a second one: names as in training on both."""
    for case in detect(other).cases:
        for path, part in ((case.image, "t1"), (case.label, "t2")):  # words that say nothing
            (tmp_path / "a").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "a" / f"{case.name[-1]}_{part}.nii.gz")
    arguments = (f"--workdir={finished_run}", f"--output={tmp_path / 'out'}")
    named = "--images=*_t1.nii.gz", "--labels=*_t2.nii.gz"
    assert call(*arguments, f"--data=('{tmp_path / 'a'}',)", *named, "--exclude=3") == 0
    assert [row["case"] for row in rows_of(tmp_path / "out")] == ["1", "2"]
    assert call(*arguments, f"--data={tmp_path / 'a'}") == 2
    assert "unknown layout" in capsys.readouterr().err
    arguments = (f"--workdir={finished_run}", f"--output={tmp_path / 'named'}")
    assert call(*arguments, f"--data=b={tmp_path / 'a'}", *named, "--cases=b_2") == 0
    rows = rows_of(tmp_path / "named")
    assert [(row["case"], row["dataset"]) for row in rows] == [("b_2", "b")]
