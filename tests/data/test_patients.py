"""Which cases are of one patient: by an expression, by a table, and what looks like visits."""

from pathlib import Path

import pytest

from lagseg_jax.data.cases import Case
from lagseg_jax.data.patients import (
    assign_patients,
    describe_patients,
    find_visits,
    listed,
    visits_rule,
)
from lagseg_jax.data.split import nnunet_folds, split_by_patient
from lagseg_jax.runtime.errors import InputError

NAMES = [f"P{number:02}_{visit}" for number in range(1, 12) for visit in ("pre", "post")]


def cases_of(names):
    return [Case(name, name, Path(f"{name}.nii"), Path(f"{name}_label.nii")) for name in names]


def patients_of(rule, names=NAMES):
    return [case.patient for case in assign_patients(cases_of(names), rule, "--patient")]


def table(folder, lines):
    path = folder / "patients.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_an_expression_or_a_table_names_the_patient(tmp_path):
    expected = [name[:3] for name in NAMES]
    assert patients_of("^(P[0-9]+)_") == expected
    lines = ["case,patient", *(f"{name},{name[:3]}" for name in reversed(NAMES))]
    assert patients_of(table(tmp_path, lines)) == expected
    assert patients_of("") == NAMES


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("P[0-9]+", "with 0 groups, expected exactly one"),
        ("(P)([0-9]+)", "with 2 groups, expected exactly one"),
        ("(P[0-9+", "neither a regular expression"),
        ("^(P0[0-9])_", "finds no patient in 4 cases ('P10_pre', 'P10_post', 'P11_pre'"),
        ("^(P11_pre)?", "finds no patient in 21 cases ('P01_pre'"),
        ("P(x*)[0-9]+", "finds no patient in 22 cases ('P01_pre'"),  # it matches, the group is ""
        ("nowhere.csv", "nowhere.csv cannot be read"),
    ],
)
def test_expressions_that_do_not_work(rule, expected):
    with pytest.raises(InputError) as error:
        patients_of(rule)
    assert str(error.value).startswith("--patient") and expected in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda rows: rows[:-1], "no patient for case 'P11_post' found"),
        (lambda rows: [*rows, "P99_pre,P99"], "case 'P99_pre' found, which the dataset lacks"),
        (lambda rows: [*rows, "P11_post,P12"], "'P11_post' found with two patients"),
        (lambda rows: rows[1:], "first line 'P01_pre,P01' found, expected 'case,patient'"),
        (lambda rows: [*rows, "P12_pre"], "line 'P12_pre' found"),
        (lambda rows: [], "first line 'nothing' found"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, change, expected):
    rows = ["case,patient", *(f"{name},{name[:3]}" for name in NAMES)]
    path = table(tmp_path, change(rows))
    with pytest.raises(InputError) as error:
        patients_of(path)
    assert path in str(error.value) and expected in str(error.value)


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (NAMES[:4], ["p01", "p02"]),
        (["P01_1", "P01_2", "P02_1"], ["p01"]),
        (["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"], ["sub-01"]),
        (["sub-ab_ses-1_run-1", "sub-ab_ses-1_run-2", "sub-b_ses-1_run-1"], ["sub-ab"]),
        (["anna_pre", "anna_post", "bert_pre"], ["anna"]),
        (["P1a", "P1b", "P2a"], ["p1"]),
        (["P01_pre", "P01_post"], ["p01"]),
        (["patient_7_scan1", "patient_7_scan2", "patient_8_scan1"], ["patient_7"]),
        ([f"train_{n}" for n in range(9)], []),
        ([f"la_{n:03}" for n in range(9)], []),
        ([f"patient_{n:04}" for n in range(9)], []),
        ([f"case2018_{n:03}" for n in range(9)], []),
        (["0RZDK210BSMWAA6467LU", "4498HYEE0GFSY01GBB2C", "A1B2"], []),
        ([f"P{n:02}_pre" for n in range(9)], []),
        ([f"scan_2018_{n:03}" for n in range(4)] + [f"scan_2019_{n:03}" for n in range(4)], []),
        (
            [f"scan_2018_{n:03}" for n in range(7)] + ["scan_2018_003_v1", "scan_2018_003_v2"],
            ["scan_2018_003"],
        ),
        (["P1_20180312", "P1_20190412", "P2_20180312"], ["p1"]),
        (["P1_3m", "P1_12m", "P2_3m"], ["p1"]),
        (["P1_pre_LGE", "P1_post_LGE", "P2_pre_LGE"], ["p1"]),
        ([f"heart_scan{n}" for n in range(9)], []),
        ([f"scan_{c}_{n}" for c in "ab" for n in range(9)], []),
        (["anna", "bert", "", "_", "心房_1", "心房_2"], []),
    ],
)
def test_names_that_look_like_visits(names, stems):
    assert list(find_visits(names)) == stems
    rule = visits_rule(names) if stems else ""
    if rule:  # what is proposed takes these together and no others
        patients = patients_of(rule, names)
        groups = [[n for n, p in zip(names, patients) if p == one] for one in set(patients)]
        assert sorted(g for g in groups if len(g) > 1) == sorted(find_visits(names).values())


def test_a_rule_is_proposed_for_visits():
    assert visits_rule(NAMES) == "^(.+?)(?:_post|_pre)?$"
    names = ["scan_2018_002", "scan_2018_003_v1", "scan_2018_003_v2"]
    assert visits_rule(names) == "^(.+?)(?:_v[0-9]+)?$"


def test_splits_are_over_patients():
    """No patient in two parts; counts and folds count patients; no case is lost."""
    cases = assign_patients(cases_of(NAMES), "^(P[0-9]+)_", "--patient")
    split = split_by_patient(cases, counts=(6, 2, 3))
    assert [len(names) for names in split.values()] == [12, 4, 6]
    singles = cases_of(sorted({name[:3] for name in NAMES}))
    for fold in range(5):
        split, of_patients = nnunet_folds(cases, fold, True), nnunet_folds(singles, fold)
        for part, names in split.items():
            assert sorted({name[:3] for name in names}) == sorted(of_patients[part])
        assert sum(map(len, split.values())) == len(NAMES)


def test_up_to_ten_names_are_listed():
    assert listed(["a"]) == "case 'a'"
    assert listed(["a", "b"]) == "2 cases ('a', 'b')"
    assert listed([str(n) for n in range(10)]).endswith(" '9')")
    assert listed([str(n) for n in range(11)]).endswith(" '9', ...)")


def test_it_is_said_how_patients_are_told_apart():
    assert describe_patients("") == "by file: no patients known"
    assert describe_patients("^(P)") == "by patient (^(P))"
