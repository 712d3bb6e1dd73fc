"""A run belongs to its split and its files: what is obeyed, what is refused, what is said."""

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from changed_files import case_file, change, config_of
from lagseg_jax import main
from lagseg_jax.config.choices import PHANTOMS
from lagseg_jax.data import phantom_scans
from lagseg_jax.data.layouts.detect import detect
from lagseg_jax.data.run_split import load_split
from lagseg_jax.data.split import nnunet_folds, split_sha256
from lagseg_jax.runs.checkpoint import REMOVED
from lagseg_jax.runs.workdir import OWN_SPLIT, check_continues, write_config
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import file_sha256

NAMES = [f"train_{number}" for number in range(1, 7)]
OWN = {"train": NAMES[3:], "validation": NAMES[2:3], "test": NAMES[:2]}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What a relative root such as "phantom" leaves beside it stays out of the checkout."""
    monkeypatch.chdir(tmp_path)


def names_of(split):
    return {part: [case.name for case in cases] for part, cases in split.items()}


@pytest.fixture
def copied(finished_run, phantom, tmp_path):
    """A copy of the finished run, and of its dataset."""
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.copytree(phantom, tmp_path / "data")
    return tmp_path / "run", tmp_path / "data"


def test_the_first_start_writes_down_what_made_the_split(phantom, tmp_path):
    config = config_of(phantom)
    split = load_split(config, tmp_path)
    record = json.loads((tmp_path / "splits.json").read_text())
    assert record["patients"] == "by file: no patients known"
    assert record["split_sha256"] == split_sha256(names_of(split))
    assert record["settings"]["fractions"] == list(config.data.fractions)
    cases = {case.name: case for case in detect(phantom).cases}
    assert sorted(record["sha256"]) == sorted(cases)
    for name, hashes in record["sha256"].items():
        assert hashes["image"] == file_sha256(cases[name].image)
        assert hashes["label"] == file_sha256(cases[name].label)


@pytest.mark.parametrize("name", ["phantom", "phantom-ct"])
def test_phantoms_are_made_in_the_workdir(tmp_path, monkeypatch, name):
    family = replace(phantom_scans.FAMILIES[PHANTOMS[name]], shape=(13, 11, 7))
    monkeypatch.setitem(phantom_scans.FAMILIES, PHANTOMS[name], family)
    split = load_split(config_of(Path(name)), tmp_path / "run")
    assert len([case for cases in split.values() for case in cases]) == 12
    assert all(tmp_path / "run" / name in case.image.parents for case in split["test"])
    mark = json.loads((tmp_path / "run" / name / "phantom.json").read_text())
    assert mark["family"] == PHANTOMS[name]


def test_a_moved_dataset_continues(copied):
    workdir, data = copied
    before = json.loads((workdir / "splits.json").read_text())
    split = names_of(load_split(config_of(data), workdir))
    assert split == {part: before[part] for part in split}


def test_a_training_that_saves_and_deletes_right_now_is_left_alone(copied):
    workdir, data = copied
    folder = workdir / "checkpoints"
    shutil.copytree(folder / "6", folder / "7.orbax-checkpoint-tmp")
    shutil.copytree(folder / "6", folder / REMOVED / "2")
    before = sorted(folder.rglob("*"))
    load_split(config_of(data), workdir)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("found", [None, [], {"train_1": "0123"}])
def test_a_record_without_the_hashes_of_the_cases_is_refused(copied, found):
    workdir, data = copied
    path = workdir / "splits.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"sha256": found}))
    with pytest.raises(InputError, match=r"splits\.json: no sha256 of the cases found"):
        load_split(config_of(data), workdir)


@pytest.mark.parametrize("part", ["image", "label"])
@pytest.mark.parametrize("of", ["train", "test"])
def test_changed_files_are_refused(copied, part, of, caplog):
    workdir, data = copied
    name = json.loads((workdir / "splits.json").read_text())[of][0]
    change(case_file(data, name, part))
    with pytest.raises(InputError, match=f"the {part} of case '{name}' has changed.*--workdir"):
        load_split(config_of(data), workdir)
    allowed = config_of(data, allow=("changed_label",))
    if part == "image":
        with pytest.raises(InputError, match="the image of case"):
            load_split(allowed, workdir)
    else:
        with caplog.at_level(logging.WARNING):
            load_split(allowed, workdir)
        assert f"the label of case '{name}' has changed" in caplog.text
    with pytest.raises(InputError, match="has changed"):
        main.run(config_of(data), workdir, "evaluate")


def test_new_cases_are_named_and_not_used(copied, caplog):
    workdir, data = copied
    before = names_of(load_split(config_of(data), workdir))
    folder = case_file(data, "train_1", "image").parent
    shutil.copytree(folder, folder.with_name("train_9"))
    with caplog.at_level(logging.WARNING):
        assert names_of(load_split(config_of(data), workdir)) == before
    assert "case 'train_9' came after this run began" in caplog.text


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_checkpoints_need_their_split(copied, mode):
    """A missing one is not drawn anew; another one would score what was trained on."""
    workdir, data = copied
    path = workdir / "splits.json"
    record = json.loads(path.read_text())
    path.unlink()
    with pytest.raises(InputError, match=r"splits\.json does not exist, but .*checkpoints does"):
        main.run(config_of(data), workdir, mode)
    assert not path.exists()
    swapped = record | {"train": record["test"], "test": record["train"]}
    path.write_text(json.dumps(swapped))
    with pytest.raises(InputError, match=r"splits\.json is not the split that .* trained with"):
        main.run(config_of(data), workdir, mode)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("split_seed", 1), ("fold", 1), ("fractions", (0.4, 0.3, 0.3)), ("counts", (2, 2, 2))),
        *(("patient", "_([0-9]+)"), ("train_patients", 1), ("train_fraction", 0.5)),
        *(("split", "other.json"), ("label_value", 420), ("label_threshold", 0.5)),
    ],
)
def test_what_made_the_run_cannot_change(finished_run, phantom, field, value):
    with pytest.raises(InputError, match=rf"config\.data\.{field} is .*another --workdir"):
        check_continues(finished_run, config_of(phantom, **{field: value}))


def test_another_seed_is_refused(finished_run, phantom):
    config = config_of(phantom)
    config.seed = 5
    with pytest.raises(InputError, match=r"config\.seed is 5"):
        check_continues(finished_run, config)


def test_a_split_that_lies_in_a_new_workdir_is_obeyed_and_said(phantom, tmp_path, caplog):
    (tmp_path / "splits.json").write_text(json.dumps(OWN))
    config = config_of(phantom)
    with caplog.at_level(logging.INFO):
        assert names_of(load_split(config, tmp_path)) == OWN
    assert "the splits.json that lay in the workdir is obeyed" in caplog.text
    assert config.data.split == OWN_SPLIT
    assert "sha256" in json.loads((tmp_path / "splits.json").read_text())
    write_config(tmp_path, config)
    assert names_of(load_split(config_of(phantom), tmp_path)) == OWN  # an interrupted first start
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    check_continues(tmp_path, config_of(phantom))  # the same command continues
    with pytest.raises(InputError, match=r"config\.data\.train_patients is 1"):
        shutil.rmtree(tmp_path / "checkpoints")
        load_split(config_of(phantom, train_patients=1), tmp_path)


def test_the_splits_json_of_another_run_is_obeyed(phantom, tmp_path):
    """Its record says that it was drawn, but not by a start in this workdir."""
    drawn = load_split(config_of(phantom), tmp_path / "a")
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "splits.json", tmp_path / "b")
    config = config_of(phantom, split_seed=3)
    assert load_split(config, tmp_path / "b") == drawn
    assert config.data.split == OWN_SPLIT


def test_a_draw_without_checkpoints_follows_the_config(phantom, tmp_path):
    config = config_of(phantom)
    first = names_of(load_split(config, tmp_path))
    write_config(tmp_path, config)
    other = next(
        split
        for seed in range(1, 9)
        if (split := names_of(load_split(config_of(phantom, split_seed=seed), tmp_path))) != first
    )
    assert set(other["train"]) != set(first["train"]) or other["test"] != first["test"]


def test_a_file_of_ours_or_of_nnunet(phantom, tmp_path):
    ours = tmp_path / "ours.json"
    ours.write_text(json.dumps(OWN))
    assert names_of(load_split(config_of(phantom, split=str(ours)), tmp_path / "a")) == OWN
    theirs = tmp_path / "splits_final.json"
    folds = [{"train": NAMES[1:], "val": NAMES[:1]}, {"train": NAMES[:4], "val": NAMES[5:]}]
    theirs.write_text(json.dumps(folds))
    found = load_split(config_of(phantom, split=str(theirs), fold=1), tmp_path / "b")
    found = names_of(found)
    assert found["test"] == NAMES[5:] and len(found["validation"]) == 1
    assert sorted(found["train"] + found["validation"]) == NAMES[:4]
    first = names_of(load_split(config_of(phantom, split=str(theirs), fold=0), tmp_path / "c"))
    assert first["test"] == NAMES[:1]


@pytest.mark.parametrize("fold", range(5))
def test_folds_are_nnunets(phantom, tmp_path, fold):
    expected = nnunet_folds(detect(phantom).cases, fold)
    assert names_of(load_split(config_of(phantom, fold=fold), tmp_path)) == expected


@pytest.mark.parametrize(
    ("content", "data", "expected"),
    [
        (OWN | {"test": ["train_9", "train_8"]}, {}, "2 cases ('train_9', 'train_8') found"),
        (OWN | {"test": NAMES[2:3]}, {}, "found in validation and in test"),
        (OWN | {"test": NAMES[:1] * 2}, {}, "case 'train_1' found twice in test"),
        *((OWN, {"fold": fold}, f"config.data.fold is {fold}") for fold in (0, 1)),
        (OWN, {"counts": (2, 2, 2)}, "config.data.counts is (2, 2, 2)"),
        (OWN, {"patient": "train_(.)", "split": "nowhere"}, "nowhere cannot be read"),
        ([{"train": NAMES[1:], "val": NAMES[:1]}], {}, "config.data.fold is -1, expected 0 to 0"),
        ([{"train": NAMES, "val": NAMES[:1]}], {"fold": 0}, "found in train and in val"),
        ([{"train": NAMES}], {"fold": 0}, "expected non-empty lists train and val"),
        ([{"train": [], "val": NAMES}], {"fold": 0}, "expected non-empty lists train and val"),
        ([{"train": "train_1", "val": NAMES}], {"fold": 0}, "expected non-empty lists"),
        (OWN, {"patient": "(train)_"}, "patient train found in train and in validation"),
    ],
)
def test_files_that_do_not_fit(phantom, tmp_path, content, data, expected):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        load_split(config_of(phantom, **{"split": str(path)} | data), tmp_path / "run")
    assert expected in str(error.value) and not (tmp_path / "run" / "splits.json").exists()


def test_patients_of_a_rule_stay_together(phantom, tmp_path, caplog):
    table = tmp_path / "patients.csv"
    lines = [f"{name},{'AABBCC'[index]}" for index, name in enumerate(NAMES)]
    table.write_text("\n".join(["case,patient", *lines]))
    with caplog.at_level(logging.INFO):
        split = load_split(config_of(phantom, patient=str(table)), tmp_path / "run")
    assert "split by patient" in caplog.text and "no patients known" not in caplog.text
    assert sorted(sorted(names) for names in names_of(split).values()) == [
        NAMES[:2],
        NAMES[2:4],
        NAMES[4:],
    ]


def test_names_that_look_like_visits_are_warned_about(phantom, tmp_path, caplog):
    shutil.copytree(phantom, tmp_path / "data")
    folder = case_file(tmp_path / "data", "train_1", "image").parent
    for number, name in enumerate(("P01_pre", "P01_post", "P02_pre", "P02_post"), 1):
        folder.with_name(f"train_{number}").rename(folder.with_name(name))
    with caplog.at_level(logging.INFO):
        load_split(config_of(tmp_path / "data"), tmp_path / "run")
    assert "by file: no patients known" in caplog.text
    assert "2 cases ('P01_post', 'P01_pre') look like several scans of one patient" in caplog.text
    (rule,) = re.findall("such as '(.+)'$", caplog.messages[-1])
    named = load_split(config_of(tmp_path / "data", patient=rule), tmp_path / "named")
    patients = {case.name: case.patient for part in named.values() for case in part}
    assert patients["P01_pre"] == patients["P01_post"] != patients["P02_pre"]
