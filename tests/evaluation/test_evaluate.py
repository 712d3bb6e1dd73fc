"""Evaluation: the tables against hand-made predictions, empties, and the pictures that are left."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from configs import default
from lagseg_jax.data.cases import Case
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.evaluation import evaluate as module
from lagseg_jax.evaluation.evaluate import evaluate, summary_line
from lagseg_jax.evaluation.metrics import case_metrics
from lagseg_jax.evaluation.study import Run
from lagseg_jax.imaging.labels import read_image_and_label
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.reports.page import write_report
from lagseg_jax.runtime.errors import InputError


def segmenter_of(masks):
    """Predicts the given masks in turn."""
    queue = iter(masks)
    report = {"variant": "base", "weights": "weights/base", "sha256": "0" * 64}
    config = default.get_config()
    config.data.label_value = 420
    weights = np.full((len(config.decoder.scales) + 1, 12), 1 / 12)
    weights[:, [3, 7]] = 0.75 / 12, 1.25 / 12
    return SimpleNamespace(
        config=config,
        segment=lambda volume, *how: next(queue),
        remarks=lambda volume: [],
        postprocessing=None,
        estimator=None,
        fusion_weights=lambda: weights,
        encoder=SimpleNamespace(report=lambda: report, warning=""),
        step=17,
        plane="",
        source=None,
        check_plane=lambda geometry, what: None,
    )


@pytest.fixture
def labelled(phantom):
    cases = detect(phantom).cases[:4]
    return cases, [read_image_and_label(c.image, c.label)[1] for c in cases]


def test_tables_agree_with_the_predictions(labelled, tmp_path):
    cases, labels = labelled
    truths = [label.array for label in labels]
    masks = [
        truths[0],
        np.roll(truths[1], 2, axis=0),
        np.zeros_like(truths[2]),
        np.roll(truths[3], 1, axis=2),
    ]
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays" / "best_of_an_older_model.png").touch()
    summary = evaluate(segmenter_of(masks), cases, tmp_path)
    with (tmp_path / "per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [case.name for case in cases]
    assert {row["encoder_weights"] for row in rows} == {"weights/base"}
    for row, label, mask in zip(rows, labels, masks):
        # Slices are cut along z: the phantoms' spacing is 2.5 x 2.5 x 5 mm.
        expected = case_metrics(label.array, mask, (2.5, 2.5, 5.0), axis=2)
        for name, value in expected.items():
            np.testing.assert_allclose(float(row[name]), value, rtol=1e-6, err_msg=name)
    assert float(rows[0]["dice"]) == 1 and float(rows[2]["dice"]) == 0
    assert rows[2]["hd95_mm"] == "nan"

    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (summary["step"], summary["n_cases"], summary["n_empty_prediction"]) == (17, 4, 1)
    assert summary["hd95_mm"]["n"] == 3 and summary["n_distances_excluded"] == 1
    np.testing.assert_allclose(
        summary["dice"]["mean"], np.mean([float(row["dice"]) for row in rows])
    )
    pictures = {p.name for p in (tmp_path / "overlays").iterdir()}
    assert f"best_{cases[0].name}.png" in pictures and f"worst_{cases[2].name}.png" in pictures
    assert len(pictures) == 3 and any(name.startswith("median_") for name in pictures)
    weights = np.loadtxt(tmp_path / "fusion_weights.csv", str, delimiter=",")
    assert weights[:, 0].tolist() == ["scale", "1/14", "1/8", "1/4", "1/2", "1/1"]
    assert weights[0, 1:].tolist() == [f"block_{block}" for block in range(12)]
    np.testing.assert_allclose(weights[1:, 4].astype(float), 0.75 / 12, rtol=1e-5)
    assert json.loads((tmp_path / "manifest.json").read_text())["dataset"]["cases"] == 4
    assert write_report(tmp_path).read_text().count('src="data:image/png') == 3
    for case, mask in zip(cases, masks):
        written = read_volume(tmp_path / "masks" / f"{case.name}.nii.gz")
        np.testing.assert_array_equal(written.array, mask)
    assert "mean over 4 cases" in summary_line(summary)


def test_slices_are_those_of_the_coarsest_axis(tmp_path):
    """The first one here; the last would give another Dice per slice."""
    truth, mask = np.zeros((2, 13, 11, 7), np.int16)
    truth[2:8, 3:8, 2:5], mask[3:9, 3:8, 2:5] = 420, 1
    paths = [tmp_path / f"{name}.nii.gz" for name in ("image", "label")]
    for path in paths:
        nib.save(nib.Nifti1Image(truth, np.diag([3.0, 1.5, 1.5, 1.0])), path)
    (tmp_path / "out").mkdir()
    summary = evaluate(segmenter_of([mask]), [Case("c", "p", *paths)], tmp_path / "out")
    assert summary["slice_dice"]["mean"] == pytest.approx(5 / 7)


def test_a_volume_above_the_cap_is_refused(labelled, tmp_path):
    segmenter = segmenter_of([])
    segmenter.config.data.max_gb = 1e-6
    with pytest.raises(InputError, match=r"bytes of voxels .* at most 1000"):
        evaluate(segmenter, labelled[0][:1], tmp_path)


def test_nothing_found_anywhere_is_described(labelled, tmp_path):
    cases, labels = labelled
    masks = [np.zeros_like(label.array) for label in labels[:1]]
    summary = evaluate(segmenter_of(masks), cases[:1], tmp_path)
    assert summary["hd95_mm"]["mean"] is None and summary["dice"]["mean"] == 0
    assert summary_line(summary) == "Dice 0.0000, IoU 0.0000 (mean over 1 case)"
    assert [p.name for p in (tmp_path / "overlays").iterdir()] == [f"worst_{cases[0].name}.png"]


def test_pictures_show_the_window_that_the_network_sees(labelled, tmp_path, monkeypatch):
    """A window of the config is black and white in the picture; percentiles have no say."""
    cases, labels = labelled
    drawn = []
    monkeypatch.setattr(
        module, "write_overlay", lambda _, image, *about: drawn.append((image, about))
    )
    for window in ((), (-50.0, 700.0)):
        segmenter = segmenter_of([labels[0].array])
        segmenter.config.data.window = window
        evaluate(segmenter, cases[:1], tmp_path)
    (plain, about), (windowed, told) = drawn
    assert about[-1] == () and 0 <= plain.min() < plain.max() <= 1
    assert told[-1] == (-50.0, 700.0)
    image = read_image_and_label(cases[0].image, cases[0].label)[0]
    assert (windowed.min(), windowed.max()) == (image.array.min(), image.array.max())


@pytest.mark.parametrize("cut", ["per_case.csv", "overlays", "manifest.json"])
def test_one_that_was_killed_is_not_taken_for_finished(labelled, tmp_path, monkeypatch, cut):
    """Neither a new one nor one over an older one, wherever it stopped."""
    cases, labels = labelled
    masks = [label.array for label in labels]
    folder = tmp_path / "run" / "evaluation"
    run = Run("arm", -1, 0, tmp_path / "run", (), None)
    evaluate(segmenter_of(masks), cases, folder)
    assert run.finished

    class Killed(Exception):
        pass

    def killed(path, *arguments):
        if Path(path).name == cut or Path(path).parent.name == cut:
            raise Killed
        return original(path, *arguments)

    name = {"per_case.csv": "write_csv", "overlays": "write_overlay"}.get(cut, "write_json")
    original = getattr(module, name)
    monkeypatch.setattr(module, name, killed)
    with pytest.raises(Killed):
        evaluate(segmenter_of(masks), cases, folder)
    assert not run.finished
    with pytest.raises(InputError, match=r"summary\.json"):
        write_report(folder)


def test_every_case_gets_a_page_with_truth_and_prediction(labelled, tmp_path):
    cases, labels = labelled
    masks = [np.roll(label.array, 1, axis=0) for label in labels]
    seen = {}
    (tmp_path / "review").mkdir()
    (tmp_path / "review" / "older.html").touch()
    (tmp_path / "review.html").touch()

    def case_page(path, title, content):
        assert not (tmp_path / "review.html").exists() and path.parent.is_dir()
        seen[path] = title, content

    evaluate(segmenter_of(masks), cases, tmp_path, case_page=case_page)
    assert [path.name for path in seen] == [f"{case.name}.html" for case in cases]
    assert not any((tmp_path / "review").iterdir())  # pages of other masks are gone
    for label, (title, content) in zip(labels, seen.values()):
        assert content["truth"] and "Dice 0." in title and content["probability"] is None
        assert sorted(content["shape"]) == sorted(label.array.shape)
