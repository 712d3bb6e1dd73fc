"""python -m lagseg_jax.check: everything in one pass, a table, JSON, an exit status."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import lagseg_jax
from lagseg_jax import check
from lagseg_jax.data import dataset_checks, quality
from lagseg_jax.runtime import console
from lagseg_jax.runtime.console import exit_status, in_parallel
from lagseg_jax.runtime.errors import InputError

ROOT = Path(lagseg_jax.__file__).parent.parent


@pytest.fixture
def dataset(phantom, tmp_path):
    """Root and case folders of a copy of the phantoms."""
    shutil.copytree(phantom, tmp_path / "data")
    return tmp_path / "data", tmp_path / "data" / "task2" / "train_data"


def change(path, function):
    image = nib.load(path)
    voxels, affine = np.asarray(image.dataobj), image.affine
    path.unlink()
    nib.save(nib.Nifti1Image(*function(voxels, affine)), path)


def break_four(cases):
    """A missing label, a shifted one, an empty one and a damaged image; two cases stay good."""
    (cases / "train_1" / "atriumSegImgMO.nii.gz").unlink()
    shifted = np.eye(4)
    shifted[1, 3] = 5
    change(cases / "train_2" / "atriumSegImgMO.nii.gz", lambda v, a: (v, shifted @ a))
    change(cases / "train_3" / "atriumSegImgMO.nii.gz", lambda v, a: (0 * v, a))
    image = cases / "train_4" / "enhanced.nii.gz"
    image.write_bytes(image.read_bytes()[:-100])


def call(*arguments):
    return exit_status(lambda: check.main([str(argument) for argument in arguments]))


def test_a_good_dataset(dataset, capsys, tmp_path):
    assert call(dataset[0], "--json", tmp_path / "found.json") == 0
    out = capsys.readouterr().out
    for text in ("LAScarQS 2022", "6 with label", "47 x 43 x 11", "2.5 x 2.5 x 5 mm", "0 errors"):
        assert text in out, out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["status"] == 0 and found["datasets"][0]["labelled"] == len(found["cases"]) == 6
    assert {p["code"] for p in found["problems"]} == {"slab"}  # 11 slices of 5 mm
    assert all(20 < case["atrium_ml"] < 300 for case in found["cases"])


def test_all_problems_in_one_pass(dataset, capsys, tmp_path):
    root, cases = dataset
    break_four(cases)
    assert call(root, "--json", tmp_path / "found.json") == 2
    out = capsys.readouterr().out
    assert "4 errors" in out and "training refuses" in out
    found = json.loads((tmp_path / "found.json").read_text())
    errors = {p["case"]: p["code"] for p in found["problems"] if p["severity"] == "error"}
    assert errors == {
        "train_1": "missing_label",
        "train_2": "geometry",
        "train_3": "empty_label",
        "train_4": "unreadable_image",
    }
    for name, code in errors.items():
        (line,) = [line for line in out.splitlines() if line.split()[1:3] == [code, name]]
        assert f"/{name}/" in line
    assert found["status"] == 2 and len(found["cases"]) == 6


def test_every_file_is_read_once(dataset, monkeypatch):
    read = []
    parse = quality.parse_volume
    monkeypatch.setattr(quality, "parse_volume", lambda p, *m: read.append(p) or parse(p, *m))
    call(dataset[0])
    assert len(read) == len(set(read)) == 12


def test_allowed_problems_and_strictness(dataset, capsys):
    root, cases = dataset
    change(cases / "train_3" / "atriumSegImgMO.nii.gz", lambda v, a: (0 * v, a))
    assert call(root) == 2
    assert call(root, "--allow=empty_label") == 0
    out = capsys.readouterr().out
    assert "allowed empty_label" in out and "0 errors, 6 warnings, 1 allowed" in out
    assert call(root, "--allow=empty_label", "--strict") == 1
    assert call(root, "--allow=empty_label,slab", "--strict") == 0
    assert call(root, "--allow=empty_labels") == 2
    assert "did you mean empty_label?" in capsys.readouterr().err
    assert call(root, "--allow=label_values") == 2
    assert "--allow is 'label_values'" in capsys.readouterr().err


def test_many_problems_of_one_kind_are_counted_not_listed(dataset, capsys):
    assert call(dataset[0]) == 0
    out = capsys.readouterr().out
    assert out.count("cover 55.0 mm") == 5 and "... and 1 more" in out


def test_two_datasets_with_the_same_scan(dataset, phantom, tmp_path, capsys):
    """Another download of the same challenge: the same images under other names."""
    root, cases = dataset
    other = tmp_path / "other"
    (other / "imagesTr").mkdir(parents=True)
    (other / "labelsTr").mkdir()
    for name, target in (("enhanced", "imagesTr"), ("atriumSegImgMO", "labelsTr")):
        shutil.copy(cases / "train_5" / f"{name}.nii.gz", other / target / "la_001.nii.gz")
    assert call(root, other) == 0
    out = capsys.readouterr().out
    assert "same_file" in out and "la_001.nii.gz: the same image as" in out


def test_label_value_and_cap(dataset, capsys):
    root, _ = dataset
    assert call(root, "--label_value=420") == 0
    assert call(root, "--label_value=1") == 2
    assert "label_values" in capsys.readouterr().out
    assert call(root, "--max_gb=0.00001") == 2
    assert "at most 10000" in capsys.readouterr().out


def test_no_dataset(tmp_path, capsys):
    assert call(tmp_path / "nothing") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_ends_it(dataset, monkeypatch):
    started = []

    def interrupted(case, *_):
        started.append(case)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(dataset_checks, "inspect_case", interrupted)
    monkeypatch.setattr(console.os, "cpu_count", lambda: 1)
    assert call(dataset[0]) == 130
    assert len(started) < 6


def test_as_a_program_without_jax(dataset, tmp_path):
    script = (
        "import sys; from lagseg_jax import check; from lagseg_jax.runtime import console; "
        "status = console.exit_status(check.main); print('jax' in sys.modules); sys.exit(status)"
    )
    break_four(dataset[1])
    done = subprocess.run(
        [sys.executable, "-c", script, str(dataset[0])], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout.endswith("False\n"), done.stderr
    assert "Traceback" not in done.stderr and "checking volumes 6/6" in done.stderr


def test_results_are_in_the_order_of_the_items_and_errors_are_raised():
    assert in_parallel("squares", lambda n: n * n, range(50)) == [n * n for n in range(50)]
    assert in_parallel("nothing", None, []) == []
    with pytest.raises(InputError, match="7"):
        in_parallel("fails", lambda n: _fail_at(n, 7), range(50))


def _fail_at(number, bad):
    if number == bad:
        raise InputError(str(number))


def rewrite(path, affine, code=1):
    """The same voxels with another affine; code 0: the file does not say what it means."""
    voxels = np.asarray(nib.load(path).dataobj)
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, code)
    image.set_qform(None, 0)
    path.unlink()
    nib.save(image, path)


def both(case):
    return case / "enhanced.nii.gz", case / "atriumSegImgMO.nii.gz"


def test_an_unknown_orientation_is_an_error_until_told(dataset, capsys):
    root, cases = dataset
    for path in both(cases / "train_2"):
        rewrite(path, nib.load(path).affine, code=0)
    assert call(root) == 2
    out = capsys.readouterr().out
    assert "error   orientation" in out and "qform_code and sform_code 0" in out
    assert call(root, "--orientation=LPS") == 0
    assert (
        "LPS as told, the file has qform_code and sform_code 0 (1 case)" in capsys.readouterr().out
    )
    assert call(root, "--orientation=LPX") == 2
    assert "--orientation is 'LPX'" in capsys.readouterr().err


def test_mixed_planes_are_an_error(dataset, capsys):
    root, cases = dataset
    for path in both(cases / "train_2"):
        rewrite(path, np.diag([-1.4, -8.0, 1.4, 1.0]))
    assert call(root) == 2
    out = capsys.readouterr().out
    assert "cut across another axis than most cases, into coronal slices" in out
    assert "axial 5, coronal 1" in out
    assert call(root, "--plane=axial") == call(root, "--allow=plane") == 0


def test_shear_is_named_and_volumes_follow_the_affine(dataset, capsys, tmp_path):
    root, cases = dataset
    assert call(root, "--json", tmp_path / "straight.json") == 0
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.deg2rad(30))
    for path in both(cases / "train_2"):
        rewrite(path, shear @ nib.load(path).affine)
    assert call(root, "--json", tmp_path / "sheared.json") == 2
    out = capsys.readouterr().out
    assert "error   shear" in out and "sheared by 30.0 degrees" in out
    before, after = (
        [case["atrium_ml"] for case in json.loads((tmp_path / name).read_text())["cases"]]
        for name in ("straight.json", "sheared.json")
    )
    assert after == pytest.approx(before)
    assert call(root, "--allow=shear") == 0


def test_a_shifted_label_can_be_allowed_by_name(dataset, capsys):
    root, cases = dataset
    path = cases / "train_2" / "atriumSegImgMO.nii.gz"
    affine = nib.load(path).affine.copy()
    affine[0, 3] += 0.1  # 0.04 voxels: rounding
    rewrite(path, affine)
    assert call(root) == 0
    affine[0, 3] += 5
    rewrite(path, affine)
    assert call(root) == 2 and "error   geometry" in capsys.readouterr().out
    assert call(root, "--allow=geometry") == 0


def renamed(phantom, folder, images="*_image.nii.gz", labels="*_mask.nii.gz", *values):
    """The phantoms as files of another naming; of two values, the lower slices get the first."""
    by_slice = np.where(np.arange(11) < 6, *values or (420, 420)).astype(np.int16)
    for number in range(1, 7):
        for file, pattern in (("enhanced", images), ("atriumSegImgMO", labels)):
            name = f"P{number}" + ".nii.gz" * pattern.endswith("*")
            path = folder / pattern.replace("*", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(phantom / f"task2/train_data/train_{number}/{file}.nii.gz", path)
            if values and pattern == labels:
                change(path, lambda v, a: (by_slice * (v > 0), a))
    return folder


def test_any_naming_is_recognised_or_told(phantom, tmp_path, capsys):
    root = renamed(phantom, tmp_path / "flat")
    assert call(root) == 0
    assert "pairs of files (*_image.nii.gz with *_mask.nii.gz)" in capsys.readouterr().out
    assert call(root, "--images=*_image.nii.gz", "--labels=*_mask.nii.gz", "--exclude=P[1-3]") == 0
    out = capsys.readouterr().out
    assert "dataset   *_image.nii.gz with *_mask.nii.gz, " in out and "3 with label" in out
    assert call(root, "--cases=Q1") == 2
    assert "--cases has 'Q1', which none of 6 cases" in capsys.readouterr().err
    assert call(root, "--images=*_mri.nii.gz", "--labels=*_mask.nii.gz") == 2
    assert "--images=*_mri.nii.gz matches nothing" in capsys.readouterr().err
    (root / "P1_mask.nii.gz").unlink()
    (root / "P2_image.nii.gz").unlink()
    assert call(root) == 2
    out = capsys.readouterr().out
    assert "P1_image.nii.gz: image without its label" in out
    assert "P2_mask.nii.gz: label without its image" in out


def test_several_datasets_keep_their_names(phantom, dataset, tmp_path, capsys):
    other = renamed(phantom, tmp_path / "other", "images/*", "labels/*")
    for path in other.rglob("*"):
        if path.is_file() and path.parent.name == "images":
            change(path, lambda v, a: (v + 1, a))
    assert call(dataset[0], f"paris={other}", "--json", tmp_path / "found.json") == 0
    out = capsys.readouterr().out
    assert (
        "data: LAScarQS 2022" in out
        and "paris: two folders (images/*.nii.gz with labels/*.nii.gz)" in out
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in found["datasets"]] == ["data", "paris"]
    assert {one["case"] for one in found["cases"]} >= {"data_train_1", "paris_P1"}


def test_several_label_values_are_merged(phantom, tmp_path, capsys):
    one, two = (
        renamed(phantom, tmp_path / name, "images/*", "labels/*", *values)
        for name, values in (("one", (420, 420)), ("two", (1, 2)))
    )
    assert call(two) == 2
    assert "several as (1,2)" in capsys.readouterr().out
    records = []
    for root, option in ((one, "--label_value=420"), (two, "--label_value=1,2")):
        assert call(root, option, "--json", tmp_path / "found.json") == 0
        records.append(json.loads((tmp_path / "found.json").read_text())["cases"])
    assert "labels    label values 1 and 2 are merged into one mask" in capsys.readouterr().out
    volumes = [[case["atrium_ml"] for case in cases] for cases in records]
    assert volumes[0] == volumes[1]
    assert call(two, "--label_value=(1,22)") == 2
    assert "has the value 22" in capsys.readouterr().out
    with pytest.raises(InputError, match="expected a whole number, or several"):
        check.parse_arguments([str(two), "--label_value=1,a"])


def pairs(dataset, folder, image="lge", label="laseg", numbers=(1, 2)):
    """Some of the phantoms as pairs of files; returns their folder."""
    folder.mkdir(parents=True)
    for n in numbers:
        case = dataset[1] / f"train_{n}"
        shutil.copy(case / "enhanced.nii.gz", folder / f"P{n}_{image}.nii.gz")
        shutil.copy(case / "atriumSegImgMO.nii.gz", folder / f"P{n}_{label}.nii.gz")
    return folder


def test_patterns_and_folders_in_parentheses(dataset, tmp_path, capsys):
    a = pairs(dataset, tmp_path / "a", "x", "y")
    b = pairs(dataset, tmp_path / "b", numbers=(3, 4))
    named = ("--images", "('*_x.nii.gz','')", "--labels", "('*_y.nii.gz','')")
    assert call(a, b, *named) == call(f"('{a}','{b}')", *named) == 0
    assert capsys.readouterr().out.count("4 with label") == 2


def test_cases_with_commas_and_allowed_problems_in_one_line(dataset, capsys):
    assert call(dataset[0], "--exclude=train_1,train_2", "--allow=slab") == 0
    out = capsys.readouterr().out
    assert "4 with label" in out
    assert [line for line in out.splitlines() if "slab" in line] == [
        f"allowed {'slab':17}4 found, such as train_3"
    ]
    assert call(dataset[0], "--cases=train_1,train_7") == 2
    assert "'train_7'" in capsys.readouterr().err


def test_what_is_passed_over_is_said(dataset, tmp_path, capsys):
    other = pairs(dataset, dataset[0] / "more")
    assert call(dataset[0]) == 0
    assert f"not read  {other} (" in capsys.readouterr().out


def test_a_table_in_place_of_a_folder_names_the_option(dataset, tmp_path, capsys):
    folder = pairs(dataset, tmp_path / "a")
    (folder / "cases.csv").write_text("image,label,case\nP1_lge.nii.gz,P1_laseg.nii.gz,anna\n")
    assert call(folder / "cases.csv") == 2
    assert f"--images={folder / 'cases.csv'}" in capsys.readouterr().err
    assert call(folder, "--images=cases.csv") == 0
    assert "anna        /" in capsys.readouterr().out  # slab
