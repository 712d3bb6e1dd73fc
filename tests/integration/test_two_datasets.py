"""One run on two datasets, LGE-MRI and CT, in a window of stored units: from files to report."""

import csv
import json
import logging

import numpy as np
import pytest

import tiny_run
from lagseg_jax import export, main, predict
from lagseg_jax.data.phantom import write_dataset
from lagseg_jax.imaging.volume import read_volume
from lagseg_jax.inference.export import model_card
from lagseg_jax.inference.load_segmenter import load_segmenter
from lagseg_jax.runs.workdir import read_config

WINDOW = (-300.0, 700.0)
SMALL = {"shape": (37, 41, 11), "spacing": (3.5, 3.0, 5.5)}


@pytest.fixture(scope="module")
def finished(phantom, tmp_path_factory):
    """Workdir and log of the run."""
    root = tmp_path_factory.mktemp("two")
    ct = write_dataset(root / "ct", cases=4, family="ct", **SMALL)
    config = tiny_run.config(root / "cache", steps=4, evaluate_every=2)
    config.data.update(
        root=(f"lge={phantom}", str(ct)),
        exclude=("lge_train_6",),
        balance="datasets",
        label_value=420,
        window=WINDOW,
        counts=(5, 2, 2),
        split_seed=1,
        allow=("slab",),
    )
    log, messages = logging.getLogger("lagseg_jax"), []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    main.run(config, root / "run", "train")
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)
    return root / "run", "\n".join(messages)


def test_tables_and_pages_name_the_datasets(finished):
    workdir, said = finished
    assert "data: lge: LAScarQS 2022 at" in said and "data: ct: LAScarQS 2022 at" in said
    split = json.loads((workdir / "splits.json").read_text())
    names = [name for part in ("train", "validation", "test") for name in split[part]]
    assert sorted(names) == [f"ct_train_{n}" for n in range(1, 5)] + [
        f"lge_train_{n}" for n in range(1, 6)
    ]
    assert sorted(split["sha256"]) == sorted(names)
    rows = list(csv.DictReader((workdir / "evaluation/per_case.csv").open()))
    assert [row["case"].split("_")[0] for row in rows] == [row["dataset"] for row in rows]
    assert all((workdir / f"evaluation/masks/{row['case']}.nii.gz").is_file() for row in rows)
    summary = json.loads((workdir / "evaluation/summary.json").read_text())
    page = (workdir / "evaluation/report.html").read_text()
    for name, some in summary["datasets"].items():
        dice = [float(row["dice"]) for row in rows if row["dataset"] == name]
        assert some["n_cases"] == len(dice)
        assert some["dice"]["mean"] == pytest.approx(np.mean(dice), abs=1e-5)
        assert f"{name}: " in page


def test_the_window_holds_in_training_prediction_and_export(finished, phantom):
    workdir, _ = finished
    assert read_config(workdir).data.window == WINDOW
    segmenter = load_segmenter(workdir)
    volume = read_volume(phantom / "task2/train_data/train_6/enhanced.nii.gz")
    np.testing.assert_array_equal(segmenter.cut(volume.array, volume.affine).grey, [WINDOW])
    assert model_card(segmenter, workdir)["input"]["window"] == list(WINDOW)
    assert 'how["window"]' in export.__doc__


def test_the_same_command_evaluates_again_and_predicts(finished, phantom, tmp_path):
    workdir, _ = finished
    before = (workdir / "evaluation/per_case.csv").read_text()
    main.run(read_config(workdir), workdir, "evaluate")
    assert (workdir / "evaluation/per_case.csv").read_text() == before
    given = ["--workdir", str(workdir), "--output", str(tmp_path / "out")]
    source = phantom / "task2/train_data/train_6/enhanced.nii.gz"
    assert predict.main([*given, "--input", str(source)]) == 0
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["enhanced.nii.gz"]
