"""Splits of cases that have no files: only names and patients matter."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from lagseg_jax.data.cases import Case
from lagseg_jax.data.split import (
    fewer_training_patients,
    nnunet_folds,
    read_split,
    split_by_patient,
    write_split,
)
from lagseg_jax.runtime.errors import InputError


def cases_of(patients):
    """Case n of the given patients, in that order."""
    return [
        Case(f"case_{n}", str(patient), Path(f"{n}.nii"), Path(f"{n}_label.nii"))
        for n, patient in enumerate(patients)
    ]


def sizes(split):
    return [len(split[part]) for part in ("train", "validation", "test")]


def all_names(split):
    return [name for names in split.values() for name in names]


def patients(cases, names):
    return {case.patient for case in cases if case.name in names}


@pytest.mark.parametrize(
    "total, expected",
    [(3, [1, 1, 1]), (10, [7, 1, 2]), (24, [17, 2, 5]), (100, [70, 10, 20]), (130, [91, 13, 26])],
)
def test_sizes(total, expected):
    cases = cases_of(range(total))
    split = split_by_patient(cases)
    assert list(split) == ["train", "validation", "test"] and sizes(split) == expected
    assert sorted(all_names(split)) == sorted(case.name for case in cases)


def test_counts():
    split = split_by_patient(cases_of(range(24)), counts=(16, 4, 4))
    assert sizes(split) == [16, 4, 4]


@pytest.mark.parametrize("seed", range(20))
def test_no_patient_is_in_two_parts(seed):
    cases = cases_of(np.random.RandomState(seed).randint(0, 11, 53))
    for split in (split_by_patient(cases, seed=seed), nnunet_folds(cases, seed % 5)):
        parts = [patients(cases, names) for names in split.values()]
        assert all(parts)
        assert not any(one & other for one, other in itertools.combinations(parts, 2))


def test_seed_and_order():
    cases = cases_of(range(30))
    assert split_by_patient(cases) == split_by_patient(cases)
    assert split_by_patient(cases, seed=1) != split_by_patient(cases, seed=2)
    backwards = split_by_patient(cases[::-1])
    assert {part: sorted(names) for part, names in backwards.items()} == {
        part: sorted(names) for part, names in split_by_patient(cases).items()
    }


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"fractions": (0.7, 0.1, 0.1)}, "0.7"),
        ({"fractions": (0.9, 0.1, 0.0)}, "0.0"),
        ({"fractions": (0.1, 0.1, 0.8)}, "at least one"),
        ({"counts": (16, 4, 4)}, "4 together"),
        ({"counts": (1, 1, 1)}, "4 together"),
        ({"counts": (4, 0, 0)}, "at least one"),
    ],
)
def test_shares_that_do_not_work(options, expected):
    with pytest.raises(InputError, match=expected):
        split_by_patient(cases_of(range(4)), **options)


def test_two_patients_are_too_few():
    with pytest.raises(InputError, match="2 patients found"):
        split_by_patient(cases_of([1, 1, 2, 2, 2]))


# Positions of the test cases, printed by scikit-learn 1.9.1:
# [test for _, test in KFold(n_splits=5, shuffle=True, random_state=12345).split(range(n))]
KFOLD = {
    5: [[0], [4], [3], [1], [2]],
    11: [[0, 3, 7], [6, 10], [8, 9], [1, 4], [2, 5]],
    24: [
        *([8, 10, 12, 18, 20], [0, 3, 14, 15, 17], [7, 11, 13, 16, 19]),
        *([6, 9, 21, 22, 23], [1, 2, 4, 5]),
    ],
}


@pytest.mark.parametrize("total", KFOLD)
def test_nnunet_folds_are_those_of_scikit_learn(total):
    cases = cases_of(range(total))
    by_name = sorted(case.name for case in cases)  # case_10 before case_2, as nnU-Net sorts
    for fold, positions in enumerate(KFOLD[total]):
        assert sorted(nnunet_folds(cases, fold)["test"]) == [by_name[n] for n in positions]


def test_nnunet_folds_cover_every_case_once():
    cases = cases_of(range(24))
    splits = [nnunet_folds(cases, fold) for fold in range(5)]
    assert [sizes(split) for split in splits] == [[17, 2, 5]] * 4 + [[18, 2, 4]]
    tested = [name for split in splits for name in split["test"]]
    assert sorted(tested) == sorted(case.name for case in cases)
    for split in splits:
        assert len(set(all_names(split))) == 24


def test_nnunet_folds_leave_out_copies_of_test_patients():
    cases = cases_of([*range(10), 0])  # case_10 is a second scan of patient 0
    for fold in range(5):
        split = nnunet_folds(cases, fold)
        in_test = {"case_0", "case_10"} & set(split["test"])
        assert len(all_names(split)) == 11 - (len(in_test) == 1)


def test_nnunet_folds_are_of_cases_whoever_the_patient_is():
    """Ten cases of five patients: two cases are tested, and their patients' others are nowhere."""
    cases = cases_of([n // 2 for n in range(10)])
    for fold in range(5):
        split = nnunet_folds(cases, fold)
        assert len(split["test"]) == 2
        left_out = {case.name for case in cases} - set(all_names(split))
        assert patients(cases, left_out) <= patients(cases, split["test"])


def test_an_eighth_of_the_other_patients_of_a_fold_is_for_validation():
    assert sizes(nnunet_folds(cases_of(range(100)), 0)) == [70, 10, 20]
    assert sizes(nnunet_folds(cases_of(range(5)), 0)) == [3, 1, 1]  # but one at least


def test_folds_that_do_not_exist():
    for fold, total in [(5, 10), (-1, 10), (0, 4)]:
        with pytest.raises(InputError, match=f"fold {fold} of {total}"):
            nnunet_folds(cases_of(range(total)), fold)


def test_splits_json_round_trip(tmp_path):
    cases = cases_of([*range(10), 0])
    split = split_by_patient(cases)
    write_split(tmp_path / "splits.json", split)
    assert read_split(tmp_path / "splits.json", cases) == split
    assert [path.name for path in tmp_path.iterdir()] == ["splits.json"]


@pytest.mark.parametrize(
    "content, expected",
    [
        ("{", "line 1 column 2"),
        ("[]", "non-empty list"),
        ('{"train": ["case_0"], "validation": ["case_1"]}', "non-empty list"),
        ('{"train": ["case_0"], "validation": ["case_1"], "test": []}', "non-empty list"),
        ('{"train": ["case_0"], "validation": ["case_1"], "test": ["case_9"]}', "case_9"),
        (
            '{"train": ["case_0"], "validation": ["case_1"], "test": ["case_0"]}',
            "train and in test",
        ),
        ('{"train": ["case_0"], "validation": ["case_1"], "test": ["case_3"]}', "patient 0"),
        (
            '{"train": ["case_1", "case_1"], "validation": ["case_2"], "test": ["case_0"]}',
            "case 'case_1' found twice in train",
        ),
        ('{"train": [0], "validation": [[1]], "test": [{}]}', "3 cases .0, .1., {}. found"),
    ],
)
def test_splits_json_that_does_not_fit(tmp_path, content, expected):
    path = tmp_path / "splits.json"
    path.write_text(content)
    with pytest.raises(InputError, match=expected) as error:
        read_split(path, cases_of([0, 1, 2, 0]))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_splits_json(tmp_path):
    with pytest.raises(InputError, match=r"splits\.json"):
        read_split(tmp_path / "splits.json", cases_of(range(3)))


def test_names_are_kept_as_they_are(tmp_path):
    cases = [Case(name, name, Path(name), None) for name in ("心房_1", "b", "c")]
    write_split(tmp_path / "splits.json", split_by_patient(cases))
    assert "心房_1" in (tmp_path / "splits.json").read_text("utf-8")
    assert json.loads((tmp_path / "splits.json").read_text("utf-8")) == split_by_patient(cases)


def test_smaller_training_sets_lie_within_larger_ones():
    cases = cases_of([n // 2 for n in range(46)])  # two cases of each of 23 patients
    split = split_by_patient(cases)
    sets = [fewer_training_patients(split, cases, count) for count in (1, 2, 5, 11, 16)]
    kept = [set(s["train"]) for s in sets]
    assert [len(names) for names in kept] == [2, 4, 10, 22, 32]
    assert all(few < more for few, more in itertools.pairwise(kept))
    assert [len(patients(cases, names)) for names in kept] == [1, 2, 5, 11, 16]
    for part in ("validation", "test"):
        assert all(s[part] == split[part] for s in sets)
    assert fewer_training_patients(split, cases) == split == sets[-1]
    assert fewer_training_patients(split, cases, 5, seed=1) != sets[2]


def test_fractions_of_the_training_patients_are_counts():
    cases = cases_of(range(23))  # 16 of them to train
    split = split_by_patient(cases)
    for fraction, count in ((0.01, 1), (0.25, 4), (0.5, 8)):
        expected = fewer_training_patients(split, cases, count)
        assert fewer_training_patients(split, cases, fraction=fraction) == expected
    with pytest.raises(InputError, match=r"train_patients is 17, .*at most the 16"):
        fewer_training_patients(split, cases, 17)
