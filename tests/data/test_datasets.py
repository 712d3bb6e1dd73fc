"""Several datasets as one, subsets by name, and parts that a table names."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from configs import default
from lagseg_jax.config.flags import parse_flags
from lagseg_jax.config.validate import check_config
from lagseg_jax.data.batches import SliceSource, TrainingBatches
from lagseg_jax.data.cases import Case
from lagseg_jax.data.datasets import find_datasets, labelled
from lagseg_jax.data.patients import assign_patients
from lagseg_jax.data.prepare import PreparedCase
from lagseg_jax.data.run_split import load_split
from lagseg_jax.data.subset import select
from lagseg_jax.runs.workdir import read_config, write_config
from lagseg_jax.runtime.errors import InputError


def make(root, *names):
    """One small file per name, each with its own content."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path))
    return str(root)


def folders(root, *names):
    """A dataset `images/` and `labels/` with these cases."""
    return make(root, *(f"{part}/{n}.nii.gz" for n in names for part in ("images", "labels")))


def flat(root, *names):
    """A dataset of pairs of files with these cases."""
    return make(root, *(f"{n}_{part}.nii.gz" for n in names for part in ("lge", "seg")))


def names(datasets):
    return [case.name for case in labelled(datasets)]


def config_of(**data):
    config = default.get_config()
    config.data.update(data)
    check_config(config)
    return config


def parts(split):
    return {part: [case.name for case in cases] for part, cases in split.items()}


def test_cases_of_several_datasets_are_named_by_them(tmp_path):
    one, two = folders(tmp_path / "utah", "P1", "P2"), flat(tmp_path / "x=y", "P1")
    datasets = find_datasets((one, f"paris={two}"))
    assert names(datasets) == ["utah_P1", "utah_P2", "paris_P1"]
    assert [(d.name, len(d.cases)) for d in datasets] == [("utah", 2), ("paris", 1)]
    assert {case.patient for case in labelled(datasets)} == set(names(datasets))
    assert [case.dataset for case in labelled(datasets)] == ["utah", "utah", "paris"]
    assert names(find_datasets(one)) == ["P1", "P2"]
    assert names(find_datasets(two)) == ["P1"]  # a folder with = in its name
    assert names(
        find_datasets((one, two), images=("", "*_lge.nii.gz"), labels=("", "*_seg.nii.gz"))
    )


@pytest.mark.parametrize(
    ("roots", "expected"),
    [
        (("a/x", "./a/x"), "are both called x|are both called .*_a_x"),
        (("z=a/x", "z=b/x"), "are both called z, expected a name for each"),
        (("a/x", "a b=b/x"), "or NAME=FOLDER with letters"),
        (("a/x", "x_P=b/x"), "are both named x_P_1"),
        (("a/x", "none"), "no such folder"),
    ],
)
def test_names_of_datasets_that_cannot_be(tmp_path, monkeypatch, roots, expected):
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / "a/x", "P_1", "2")
    folders(tmp_path / "b/x", "1")
    with pytest.raises(InputError, match=expected):
        find_datasets(roots)


def test_folders_of_one_name_are_told_apart_by_those_above(tmp_path):
    roots = [folders(tmp_path / f"{name}/train_data", "P1") for name in ("utah", "paris")]
    assert names(find_datasets(roots)) == ["utah_train_data_P1", "paris_train_data_P1"]
    other = folders(tmp_path / "lund", "P1")
    assert names(find_datasets([*roots, other]))[-1] == "lund_P1"


def test_a_patient_rule_sees_the_names_that_a_dataset_gives(tmp_path):
    roots = folders(tmp_path / "a1", "P1_pre", "P2_pre"), folders(tmp_path / "b2", "P1_post")
    cases = assign_patients(labelled(find_datasets(roots)), "^(P[0-9]+)_", "--patient")
    assert [case.patient for case in cases] == ["P1", "P2", "P1"]


CASES = [Case(name, name, None, None) for name in ("P1_a", "P1_b", "P2_a", "P3[x]")]


@pytest.mark.parametrize(
    ("keep", "exclude", "left"),
    [
        ((), (), "P1_a P1_b P2_a P3[x]"),
        (("P1_*",), (), "P1_a P1_b"),
        ((), ("P1_*",), "P2_a P3[x]"),
        (("*_a",), ("P2_a",), "P1_a"),
        ((), ("P3[x]",), "P1_a P1_b P2_a"),
    ],
)
def test_subsets(keep, exclude, left):
    assert [case.name for case in select(CASES, keep, exclude, "--")] == left.split()


@pytest.mark.parametrize(
    ("keep", "exclude", "expected"),
    [
        (("P1_c",), (), "--cases has 'P1_c'.*did you mean P1_[ab]"),
        ((), ("Q*",), "--exclude has 'Q\\*', which none of 4 cases"),
        (("P1_*",), ("P1_*",), "leaves none of 4 cases"),
    ],
)
def test_unknown_names_are_refused(keep, exclude, expected):
    with pytest.raises(InputError, match=expected):
        select(CASES, keep, exclude, "--")


def test_a_run_on_some_cases_of_two_datasets(tmp_path):
    """Splits, hashes and patients as with one; copies over datasets are one patient."""
    roots = folders(tmp_path / "a", *"12345"), flat(tmp_path / "b", *"6789")
    (tmp_path / "b/9_lge.nii.gz").write_bytes((tmp_path / "a/images/2.nii.gz").read_bytes())
    config = config_of(root=roots, exclude=("a_5", "b_[67]"))
    split = load_split(config, tmp_path / "run")
    found = [case for cases in split.values() for case in cases]
    assert sorted(case.name for case in found) == ["a_1", "a_2", "a_3", "a_4", "b_8", "b_9"]
    part_of = {case.name: part for part, cases in split.items() for case in cases}
    assert part_of["a_2"] == part_of["b_9"]
    record = json.loads((tmp_path / "run/splits.json").read_text())
    assert sorted(record["sha256"]) == sorted(part_of)
    assert record["sha256"]["a_2"]["image"] == record["sha256"]["b_9"]["image"]


def write_table(root, *lines):
    for cell in {cell for line in lines for cell in line.split(",")[:2] if cell}:
        make(root, cell)
    (root / "cases.csv").write_text("image,label,patient,part\n" + "\n".join(lines) + "\n")
    return {"images": str(root / "cases.csv")}


TRAIN = [f"i/{n}.nii.gz,l/{n}.nii.gz,P{n},train" for n in range(8)]


def test_the_parts_of_a_table_are_obeyed(tmp_path, caplog):
    lines = [*TRAIN, "i/t.nii.gz,l/t.nii.gz,T,test", "i/u.nii.gz,,U,test"]
    config = config_of(**write_table(tmp_path, *lines))  # the root is the table's folder
    with caplog.at_level(logging.INFO):
        split = parts(load_split(config, tmp_path / "run"))
    assert split["test"] == ["t"] and len(split["validation"]) == 1 and len(split["train"]) == 7
    assert "9 labelled cases, 1 without label" in caplog.text
    assert "split by patient" in caplog.text and "cases.csv" in caplog.text
    lines += ["i/v.nii.gz,l/v.nii.gz,V,validation"]
    split = parts(load_split(config_of(**write_table(tmp_path, *lines)), tmp_path / "other"))
    assert split["validation"] == ["v"] and len(split["train"]) == 8


def test_without_a_labelled_test_case_all_parts_are_drawn(tmp_path):
    config = config_of(**write_table(tmp_path, *TRAIN, "i/u.nii.gz,,U,test"))
    split = parts(load_split(config, tmp_path / "run"))
    drawn = [name for names in split.values() for name in names]
    assert sorted(drawn) == [str(n) for n in range(8)] and all(split.values())


@pytest.mark.parametrize(
    ("line", "data", "expected"),
    [
        ("i/t.nii.gz,l/t.nii.gz,P1,test", {}, "patient P1 found in (train|validation) and in test"),
        ("i/t.nii.gz,l/t.nii.gz,T,test", {"fold": 1}, "config.data.fold is 1, but .* column part"),
        ("i/t.nii.gz,l/t.nii.gz,T,test", {"patient": "(.)"}, "column patient, expected one of"),
        ("i/t.nii.gz,l/t.nii.gz,T,test", {"counts": (1, 1, 1)}, "config.data.counts is"),
    ],
)
def test_parts_that_contradict_something(tmp_path, line, data, expected):
    table = write_table(tmp_path, *TRAIN, line)
    with pytest.raises(InputError, match=expected):
        load_split(config_of(**table, **data), tmp_path / "run")


def prepared(name, dataset, slices):
    array = np.zeros((slices, 2, 2), np.uint8)
    return PreparedCase(name, array.astype(np.float16), array, dataset=dataset)


@pytest.mark.parametrize(("balanced", "shares"), [(False, (30, 6)), (True, (18, 18))])
def test_datasets_come_by_their_slices_or_equally_often(balanced, shares):
    """Over one pass, whatever the number of processes; the order is that of the seed."""
    source = SliceSource([prepared("a", "A", 13), prepared("b", "B", 6), prepared("c", "A", 17)])

    def deal(processes, skip=0):
        numbers = []
        parts = [
            TrainingBatches(source, 6, 3, 1, (index, processes), balanced)
            for index in range(processes)
        ]
        for part in parts:
            part.restore({"slices_consumed": skip})
        for _ in range(6 - skip // 6):
            numbers += [n for batch in zip(*(next(p)["slice"] for p in parts)) for n in batch]
        for part in parts:
            part.close()
        return [int(n) for n in numbers]

    dealt = deal(1)
    of_b = sum(13 <= number < 19 for number in dealt)
    assert (36 - of_b, of_b) == shares
    assert deal(2) == dealt and deal(1, skip=12) == dealt[12:]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("root=2018", "2018"),
        ("root=('a','n=b')", ("a", "n=b")),
        ("root=(old) data", "(old) data"),
        ("images=*_lge.nii.gz", "*_lge.nii.gz"),
        ("exclude=P1_*", "P1_*"),
        ("exclude=('P1','P2')", ("P1", "P2")),
        ("label_value=420", 420),
        ("label_value=(1,2)", (1, 2)),
        ("window=(-200,800)", (-200, 800)),
    ],
)
def test_fields_of_one_value_or_several(tmp_path, argument, value):
    given = ["main", "--config=configs/default.py", "--config.data.root=x"]
    config = parse_flags([*given, f"--config.data.{argument}"], lambda _: None).config
    name = argument.partition("=")[0]
    assert config.data[name] == value
    check_config(config)
    write_config(tmp_path, config)
    assert read_config(tmp_path).data[name] == value
    again = ["main", f"--workdir={tmp_path}", f"--config.data.{argument}"]
    assert parse_flags(again, lambda _: None, stored=read_config).config.data[name] == value


@pytest.mark.parametrize(
    "data",
    [
        *({"label_value": value} for value in ("a", (), (0, 1), (1, "2"), -1, 1.0)),
        *({"root": value} for value in ("", (), ("a", ""), 3)),
        *({"window": value} for value in ((1,), (2, 1), (0, 0), "w")),
        *({"window": (0, 1), "clip_percentiles": (1.0, 99.0)}, {"balance": "cases"}),
        *({"images": 3}, {"cases": (1,)}, {"exclude": None}),
    ],
)
def test_values_that_cannot_be(data):
    config = default.get_config()
    with pytest.raises((InputError, TypeError), match=next(iter(data)).split("_")[0]):
        config.data.update({"root": "x"} | data)
        check_config(config)


def test_a_missing_root_is_said_as_before():
    with pytest.raises(InputError, match=r"config\.data\.root is empty"):
        check_config(default.get_config())


def test_the_own_name_of_a_case():
    case = replace(CASES[0], name="utah_P1_a", dataset="utah")
    assert case.name_in_dataset == "P1_a" and CASES[0].name_in_dataset == "P1_a"
