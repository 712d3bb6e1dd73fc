"""python -m lagseg_jax.calibrate: hand-made probabilities, a real run, and what it refuses."""

import dataclasses
import json
import re
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import lagseg_jax
import lagseg_jax.calibrate as command
from configs import default
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.evaluation.metrics import case_metrics
from lagseg_jax.evaluation.tuning import calibrate
from lagseg_jax.imaging.labels import read_image_and_label
from lagseg_jax.imaging.masks import volume_ml
from lagseg_jax.inference.postprocess import DEFAULT, PostProcessing
from lagseg_jax.main import main
from lagseg_jax.reports.calibration_table import advice, calibration_lines
from lagseg_jax.runs.workdir import read_config
from lagseg_jax.runtime.console import exit_status


def call(*arguments):
    return exit_status(lambda: command.main([str(argument) for argument in arguments]))


@dataclasses.dataclass(frozen=True)
class Known:
    """A model whose probability is a function of the truth, which it finds by the image."""

    config: object
    truths: dict
    probability_of: object
    step: int = 17
    plane: str = ""

    @property
    def encoder(self):
        return SimpleNamespace(report=lambda: {"weights": "weights/base"})

    def predict_probability(self, volume, spacing, affine, smooth_mm):
        assert smooth_mm == 0
        return self.probability_of(self.truths[volume.tobytes()])

    def segment(self, volume, tta, post):
        assert post.components == 1
        return np.zeros(volume.array.shape, np.uint8)


@pytest.fixture
def known(phantom):
    """Cases, and a model made of a function from truth to probability."""
    cases = detect(phantom).cases
    read = [read_image_and_label(case.image, case.label) for case in cases]
    truths = {image.array.tobytes(): label.array for image, label in read}
    split = {"train": [], "validation": cases[:2], "test": cases[2:5]}
    return lambda probability_of: (Known(default.get_config(), truths, probability_of), split, read)


def test_numbers_of_hand_made_probabilities(known):
    """0.4 in the atrium and in a slab beside it: 0.5 finds nothing; the slab is no atrium."""

    def probability_of(truth):
        probability = np.full(truth.shape, 0.0625, np.float32)
        probability[truth != 0] = 0.375
        probability[:2] = 0.25
        return probability

    segmenter, split, read = known(probability_of)
    result = calibrate(segmenter, split)
    assert result["step"] == 17 and result["default"] == DEFAULT.fields()
    assert result["cases"]["test"] == [case.name for case in split["test"]]
    # 0.3 is nearest to 0.5 among those that find the atrium exactly.
    assert result["chosen"] == {"threshold": 0.3, "components": 1, "smooth_mm": 0.0}
    assert result["validation_dice"] == {"default": 0.0, "chosen": 1.0}
    assert len(result["validation_grid"]) == 72
    test, truths = result["test"], [label.array for _, label in read[2:5]]
    assert test["default"]["dice"]["mean"] == 0 and test["chosen"]["dice"]["mean"] == 1
    assert test["chosen"]["hd95_mm"]["mean"] == 0 and test["default"]["hd95_mm"]["n"] == 0
    assert result["chosen_minus_default"]["dice"]["mean_difference"] == 1
    spacing = (2.5, 2.5, 5.0)
    true_ml = np.array([volume_ml(truth, spacing) for truth in truths])
    sums = np.array([probability_of(truth).sum(dtype=float) for truth in truths])
    expected = sums * 2.5 * 2.5 * 5 / 1000 - true_ml
    for name in ("default", "chosen"):
        found = test[name]["volume_ml"]["expected"]
        np.testing.assert_allclose(found["bias"], expected.mean())
        np.testing.assert_allclose(found["mean_absolute_error"], np.abs(expected).mean())
    minus_mask = test["default"]["volume_ml"]["expected"]["minus_mask"]
    np.testing.assert_allclose(minus_mask, (expected + true_ml).mean())
    np.testing.assert_allclose(test["default"]["volume_ml"]["prediction"]["bias"], -true_ml.mean())
    assert test["chosen"]["volume_ml"]["prediction"]["mean_absolute_error"] == 0
    # Near the atrium every voxel is 0.375 (all atrium) or 0.0625 (none).
    curve = test["default"]["calibration"]["near_atrium"]["curve"]
    assert {n: one["frequency"] for n, one in enumerate(curve) if one["voxels"]} == {0: 0, 3: 1}
    assert curve[3]["voxels"] == sum(map(np.count_nonzero, truths))
    part = curve[3]["voxels"] / (curve[0]["voxels"] + curve[3]["voxels"])
    near = test["default"]["calibration"]["near_atrium"]
    np.testing.assert_allclose(near["ece"], part * 0.625 + (1 - part) * 0.0625)
    np.testing.assert_allclose(near["brier"], part * 0.625**2 + (1 - part) * 0.0625**2)
    everywhere = test["default"]["calibration"]["all_voxels"]["curve"]
    assert sum(one["voxels"] for one in everywhere) == 3 * 47 * 43 * 11
    assert everywhere[2]["voxels"] == 3 * 2 * 43 * 11  # the slab


def test_only_validation_cases_choose(known):
    """What would be best on the test cases is not looked at."""

    def run(test_scale):
        counter = iter(range(100))

        def probability_of(truth):
            scale = 1 if next(counter) < 2 else test_scale  # the validation cases come first
            return np.where(truth != 0, np.float32(0.65), np.float32(0.35)) * np.float32(scale)

        segmenter, split, _ = known(probability_of)
        return calibrate(segmenter, split)

    one, other = run(1), run(0.5)
    assert one["chosen"] == other["chosen"] == DEFAULT.fields()
    assert (one["test"]["chosen"]["dice"]["mean"], other["test"]["chosen"]["dice"]["mean"]) == (
        1,
        0,
    )


def test_the_table_has_the_numbers(known):
    segmenter, split, _ = known(lambda truth: (truth != 0) * np.float32(0.35))
    result = calibrate(segmenter, split)
    text = "\n".join(calibration_lines(result))
    assert "| test Dice | 0.0000 +- 0.0000 | 1.0000 +- 0.0000 |" in text
    assert "| test HD95 (mm) | - | 0.00 +- 0.00 |" in text
    assert "not smoothed |" in text and "| 0.4 to 0.5 | 0 | - | - |" in text
    assert "chosen - default: +1.0000 [+1.0000, +1.0000], better in 3, worse in 0 of 3" in text
    rows = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(rows) == {3, 4, 5}  # of the three tables


@pytest.fixture(scope="module")
def calibrated(finished_run, tmp_path_factory):
    """A copy of the run with the command run on it."""
    workdir = tmp_path_factory.mktemp("calibrated") / "tiny"
    shutil.copytree(finished_run, workdir)
    return workdir


def test_a_finished_run(calibrated, capsys):
    before = {p: p.read_bytes() for p in calibrated.rglob("*") if p.is_file()}
    assert call(calibrated) == 0
    out = capsys.readouterr().out
    path = calibrated / "evaluation" / "calibration.json"
    after = {p: p.read_bytes() for p in calibrated.rglob("*") if p.is_file()}
    assert after.keys() - before.keys() == {path} and before.items() <= after.items()
    result = json.loads(path.read_text())
    assert min(result["seconds_per_volume"].values()) > 0
    # The numbers are those of the model with these settings.
    split = json.loads((calibrated / "splits.json").read_text())
    assert result["cases"] == {part: split[part] for part in ("validation", "test")}
    segmenter = lagseg_jax.load_segmenter(calibrated)
    cases = {case.name: case for case in detect(segmenter.config.data.root).cases}
    for name in ("default", "chosen"):
        segmenter.config.predict.update(result[name])
        for row in result["test"][name]["per_case"]:
            case = cases[row["case"]]
            image, label = read_image_and_label(case.image, case.label)
            mask = segmenter.predict_volume(image.array, image.spacing, image.affine)
            for metric, value in case_metrics(label.array, mask, image.spacing).items():
                expected = np.nan if row[metric] is None else row[metric]
                np.testing.assert_allclose(value, expected, err_msg=metric)
    assert result["validation_dice"]["chosen"] >= result["validation_dice"]["default"]
    # The command that it prints, with the config of these tests, is understood.
    line = re.search(r"^    (python .*)$", out, re.MULTILINE)[1]
    assert line.endswith(" ".join(PostProcessing(**result["chosen"]).flags()))
    assert f"--workdir={calibrated} --mode=evaluate" in line


def test_the_printed_command_makes_the_setting_the_runs(calibrated):
    chosen = PostProcessing(0.3, 0, 2.5)
    result = {"chosen": chosen.fields()}
    manifest = calibrated / "evaluation" / "manifest.json"
    strange = "touch /tmp/x; python -m lagseg_jax.main --config=/elsewhere.py:x"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "command": strange}))
    *_, line = advice(result, calibrated, read_config(calibrated)).splitlines()
    assert "touch" not in line and "elsewhere" not in line  # nothing is taken from the run's files
    printed = shlex.split(line)
    assert printed[:3] == ["python", "-m", "lagseg_jax.main"]
    assert exit_status(lambda: main(printed[3:])) == 0
    config = read_config(calibrated)
    assert PostProcessing.of(config.predict) == chosen
    assert "already" in advice(result, calibrated, config)


def test_folders_that_are_no_run_are_refused(tmp_path, finished_run, capsys):
    assert call(tmp_path) == 2
    assert "config.json cannot be read" in capsys.readouterr().err
    shutil.copy(finished_run / "config.json", tmp_path)
    assert call(tmp_path) == 2
    assert f"error: {tmp_path} has no checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "splits.json").exists()


def test_a_split_without_validation_cases_is_refused(tmp_path, finished_run, phantom, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    path = workdir / "splits.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "validation": []}))
    assert call(workdir) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(path) in error and "non-empty list" in error and "validation" in error
    assert call(workdir, "--data", tmp_path / "nowhere") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


def test_corrected_labels_can_be_allowed_by_name(finished_run, phantom, tmp_path, capsys):
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    root = shutil.copytree(phantom, tmp_path / "data")
    label = next(root.rglob("train_1/atriumSegImgMO.nii.gz"))
    label.write_bytes(label.read_bytes()[:4] + b"\0\0\0\1" + label.read_bytes()[8:])  # gzip's date
    assert call(workdir, "--data", root) == 2
    assert "calibrate: --allow" in capsys.readouterr().err
    assert call(workdir, "--data", root, "--allow=shear") == 2
    assert call(workdir, "--data", root, "--allow=changed_label") == 0
