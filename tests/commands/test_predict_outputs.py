"""predict: what lies beside the masks, and that it describes them."""

import json
import logging
import shutil

import nibabel
import numpy as np
import pytest

from lagseg_jax.imaging.masks import clean_mask, volume_ml
from lagseg_jax.imaging.triangles import enclosed
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.inference import files
from predict_calls import call, names_in, rows_of

pytestmark = pytest.mark.usefixtures("console_for_caplog")


def test_review_and_only_the_cases_with_a_verdict(finished_run, inputs, tmp_path, capsys):
    output = tmp_path / "out"
    common = "--workdir", finished_run, "-i", inputs, "-o", output, "--review"
    (inputs / "bad.nii.gz").unlink()
    assert call(*common) == 0
    assert names_in(output) == ["Müller scan.1.nii.gz", "b.nii", "c.nrrd", "review", "review.html"]
    pages = {path.stem: path.read_bytes() for path in (output / "review").iterdir()}
    assert set(pages) == {"Müller scan.1", "b", "c"}
    index = (output / "review.html").read_text()
    assert 'href="./review/M%C3%BCller%20scan.1.html"' in index and "random" not in index
    # A list, as a spreadsheet leaves it; the others stay, and so do their rows.
    verdicts = tmp_path / "verdicts.csv"
    verdicts.write_bytes("\ufeffcase;verdict;note\r\nb;reject;\r\nc;accept;\r\n".encode())
    assert call(*common, "--cases", verdicts, "--verdict=reject", "--tta") == 0
    again = {path.stem: path.read_bytes() for path in (output / "review").iterdir()}
    assert set(again) == set(pages) and again["c"] == pages["c"]
    assert (output / "review.html").read_text().count('<a href="./review/') == 3
    assert call(*common, "--cases", verdicts, "--resume") == 0
    # A mask that is made anew without a page leaves no older one, and no row in the table.
    assert call(*common[:-1], "--cases", verdicts, "--verdict=accept", "--tta") == 0
    assert not (output / "review" / "c.html").exists()
    assert (output / "review.html").read_text().count('<a href="./review/') == 2
    capsys.readouterr()
    verdicts.write_text("case,verdict,note\nd,reject,\n")
    assert call(*common, "--cases", verdicts) == 2
    assert "'d' is none of the cases found here" in capsys.readouterr().err


EXTRAS = ("--preview", "--save_probabilities", "--mesh", "--scene", "--statistics")
SIDE = ("previews/{}.png", "probabilities/{}.nii.gz", "meshes/{}.stl", "scenes/{}.mrml")


@pytest.fixture(scope="module")
def everything(finished_run, phantom, tmp_path_factory):
    """All outputs of two cases; arguments and output folder."""
    pytest.importorskip("fast_simplification")
    folder = tmp_path_factory.mktemp("everything")
    (folder / "in").mkdir()
    for number in (1, 2):
        source = phantom / "task2" / "train_data" / f"train_{number}" / "enhanced.nii.gz"
        shutil.copy(source, folder / "in" / f"{number}.nii.gz")
    arguments = ["--workdir", finished_run, "-i", folder / "in", "-o", folder / "out", *EXTRAS]
    assert call(*arguments) == 0
    return arguments, folder / "out"


def test_every_output_describes_the_same_atrium(everything, finished_run):
    _, output = everything
    names = {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()}
    expected = {place.format(n) for place in (*SIDE, "{}.nii.gz") for n in (1, 2)}
    expected |= {"records/1.json", "records/2.json"}
    assert names == expected | {"statistics.csv", "statistics.json"}
    for name, row in rows_of(output).items():
        mask = read_volume(output / f"{name}.nii.gz")
        probability = read_volume(output / "probabilities" / f"{name}.nii.gz")
        assert probability.array.dtype == np.float32
        np.testing.assert_array_equal(probability.affine, mask.affine)
        one = clean_mask((probability.array >= 0.5).astype(np.uint8), mask.spacing)
        np.testing.assert_array_equal(one, mask.array)
        assert row["voxels"] == np.count_nonzero(mask.array) > 0
        assert row["volume_ml"] == pytest.approx(volume_ml(mask.array, mask.spacing))
        assert row["components"] == 1
        stl = (output / "meshes" / f"{name}.stl").read_bytes()[84:]
        corners = np.frombuffer(
            stl, np.dtype([("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")])
        )
        centred = corners["v"].reshape(-1, 3) - corners["v"].mean((0, 1))
        inside = enclosed(centred, np.arange(len(centred)).reshape(-1, 3)) / 1000
        assert inside == pytest.approx(row["volume_ml"], rel=0.01)
        where = nibabel.affines.apply_affine(mask.affine, np.argwhere(mask.array)) * [-1, -1, 1]
        found = corners["v"].reshape(-1, 3)
        assert (np.abs(found.min(0) - where.min(0)) <= mask.spacing).all()
        assert (np.abs(found.max(0) - where.max(0)) <= mask.spacing).all()
    about = json.loads((output / "statistics.json").read_text())
    assert about["encoder_weights"] == "random (seed 0)" and about["workdirs"] == [
        str(finished_run)
    ]


def test_resume_wants_every_output_and_completes_the_table(everything, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lagseg_jax")
    arguments, done = everything
    output = tmp_path / "out"
    shutil.copytree(done, output)
    arguments = [output if a == done else a for a in arguments]
    (output / "meshes" / "2.stl").unlink()
    (output / "statistics.csv").unlink()
    marks = {place: (output / place.format(1)).stat().st_mtime_ns for place in SIDE}
    before = rows_of(output)
    (output / "statistics.json").unlink()
    assert call(*arguments, "--resume") == 0
    assert "cases already there: 1, to do: 1" in caplog.text
    assert (output / "meshes" / "2.stl").exists() and (output / "statistics.csv").exists()
    assert marks == {place: (output / place.format(1)).stat().st_mtime_ns for place in SIDE}
    after = rows_of(output)
    assert list(after) == ["1", "2"]
    for name in after:
        assert after[name]["voxels"] == before[name]["voxels"]
        np.testing.assert_allclose(after[name]["centroid_ras_mm"], before[name]["centroid_ras_mm"])


def test_the_mask_does_not_depend_on_the_other_outputs(everything, finished_run, tmp_path):
    arguments, done = everything
    assert call(*[tmp_path if a == done else a for a in arguments if a not in EXTRAS]) == 0
    for name in ("1.nii.gz", "2.nii.gz"):
        assert (tmp_path / name).read_bytes() == (done / name).read_bytes()


def test_a_full_disk_or_a_bad_file_costs_one_case(
    finished_run, everything, tmp_path, caplog, monkeypatch
):
    """What cannot be written is reported in its turn, and the others go on."""
    arguments, _ = everything
    real = files.write_mask

    def full(path, voxels, like):
        if path.name == "1.nii.gz":
            raise OSError(28, "No space left on device")
        real(path, voxels, like)

    monkeypatch.setattr(files, "write_mask", full)
    (tmp_path / "in").mkdir()
    for name in ("1.nii.gz", "2.nii.gz"):
        shutil.copy(arguments[3] / name, tmp_path / "in")
    (tmp_path / "in" / "0.nii.gz").write_bytes(b"not a volume")
    caplog.set_level(logging.INFO, "lagseg_jax")
    out = tmp_path / "out"
    assert call("--workdir", finished_run, "-i", tmp_path / "in", "-o", out, *EXTRAS) == 2
    text = caplog.text
    assert text.index("1/3 error") < text.index("2/3 error") < text.index("3/3 ")
    assert "No space left" in text and "2 of 3 inputs could not be used" in text
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == [
        *("2.nii.gz", "statistics.csv", "statistics.json")
    ]
    assert list(rows_of(out)) == ["2"]


@pytest.mark.parametrize("what", ["imaging.overlay.write_overlay", "inference.files.write_surface"])
def test_what_cannot_be_written_beside_a_mask_never_costs_it(
    finished_run, one_case, tmp_path, monkeypatch, caplog, what
):
    out, error = tmp_path / "out", OSError(28, "No space left on device")
    arguments = ("--workdir", finished_run, "-i", one_case, "-o", out, *EXTRAS)
    with monkeypatch.context() as patch:
        patch.setattr(f"lagseg_jax.{what}", lambda *_: (_ for _ in ()).throw(error))
        assert call(*arguments) == 1
    other = "previews/a.png" if what.endswith("overlay") else "meshes/a.stl"
    assert f"{out / other} cannot be written: No space left" in caplog.text
    assert (out / "a.nii.gz").exists() and not (out / other).exists()
    assert set(rows_of(out)) == {"a"}
    assert call(*arguments, "--resume") == 0 and (out / other).exists()
