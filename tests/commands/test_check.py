"""python -m lagseg_jax.check: everything in one pass, a table, JSON, an exit status."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import lagseg_jax
from check_calls import call, change
from lagseg_jax.data import dataset_checks, quality
from lagseg_jax.runtime import console
from lagseg_jax.runtime.console import in_parallel
from lagseg_jax.runtime.errors import InputError

ROOT = Path(lagseg_jax.__file__).parent.parent


def break_four(cases):
    """A missing label, a shifted one, an empty one and a damaged image; two cases stay good."""
    (cases / "train_1" / "atriumSegImgMO.nii.gz").unlink()
    shifted = np.eye(4)
    shifted[1, 3] = 5
    change(cases / "train_2" / "atriumSegImgMO.nii.gz", lambda v, a: (v, shifted @ a))
    change(cases / "train_3" / "atriumSegImgMO.nii.gz", lambda v, a: (0 * v, a))
    image = cases / "train_4" / "enhanced.nii.gz"
    image.write_bytes(image.read_bytes()[:-100])


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
