"""Says which cases are of one patient: by a rule, a table, or at least where files are the same."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lagseg_jax.data.cases import Case
from lagseg_jax.runtime.errors import InputError
from lagseg_jax.runtime.files import read_text, user_path

UNKNOWN = "by file: no patients known"
# Words that tell visits apart, whatever is before them.
_VISIT = re.compile(
    r"(pre|post|base|baseline|bl|before|after|fu|followup|follow|up|visit|ses|session|scan|rescan|"
    r"repeat|run|tp|time|day|week|month|year|acute|late|v|t|m|d|w|y|[a-z])[0-9]*(mo|m|d|w|y)?",
    re.IGNORECASE,
)
# Numbers, dates and months do so only after what holds the number of a patient.
_NUMBER = re.compile(r"[0-9]+(mo|months?|m|d|w|y)?", re.IGNORECASE)
_YEAR = re.compile(r"(?<![0-9])(19|20)[0-9]{2}(?![0-9])")


def describe_patients(rule: str) -> str:
    """How patients are told apart, in words."""
    return f"by patient ({rule})" if rule else UNKNOWN


def assign_patients(cases: Sequence[Case], rule: str, option: str) -> list[Case]:
    """The cases with their patients.

    Args:
        cases: as detected, each its own patient.
        rule: a regular expression whose one group is the patient, found anywhere in the name of the
            case; or the path of a CSV with the columns case and patient; "" for no rule.
        option: that gave the rule, for messages.

    Raises:
        InputError: an expression without exactly one group or that does not match a case; a table
            that cannot be read, lacks a case, or names one twice or one that does not exist.
    """
    if not rule:
        return list(cases)
    if rule.lower().endswith(".csv") or Path(rule).is_file():
        patients = _from_table([case.name for case in cases], rule, option)
        return [replace(case, patient=patients[case.name]) for case in cases]
    # Without the name of the dataset: patients of the same name are taken for the same.
    patients = _from_names([case.name_in_dataset for case in cases], rule, option)
    return [replace(case, patient=patients[case.name_in_dataset]) for case in cases]


def _from_names(names: Iterable[str], rule: str, option: str) -> dict[str, str]:
    try:
        expression = re.compile(rule)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(
            f"{option} is {rule!r}, neither a regular expression ({error}) nor the path of a CSV."
        ) from None
    if expression.groups != 1:
        raise InputError(
            f"{option} is {rule!r} with {expression.groups} groups, expected exactly one, such as "
            "'^(P[0-9]+)_', or the path of a CSV with the columns case and patient."
        )
    found = {name: expression.search(name) for name in names}
    bad = [name for name, match in found.items() if match is None or not match[1]]
    if bad:
        raise InputError(
            f"{option} is {rule!r}, which finds no patient in {listed(bad)}, expected one in the "
            "name of every case."
        )
    return {name: match[1] for name, match in found.items() if match}


def _from_table(names: Iterable[str], path: str, option: str) -> dict[str, str]:
    patients: dict[str, str] = {}
    try:
        table = csv.reader(io.StringIO(read_text(user_path(path))))
        rows = [[cell.strip() for cell in row] for row in table if any(row)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{option}: {path} cannot be read ({error}), expected a CSV.") from None
    if not rows or rows[0] != ["case", "patient"]:
        found = ",".join(rows[0]) if rows else "nothing"
        raise InputError(f"{path}: first line {found!r} found, expected 'case,patient'.")
    for row in rows[1:]:
        if len(row) != 2 or not all(row):
            raise InputError(f"{path}: line {','.join(row)!r} found, expected 'case,patient'.")
        if patients.setdefault(row[0], row[1]) != row[1]:
            raise InputError(f"{path}: case {row[0]!r} found with two patients, expected one.")
    names = set(names)
    for bad, what in (
        ([name for name in sorted(names) if name not in patients], "no patient for {} found"),
        ([name for name in patients if name not in names], "{} found, which the dataset lacks"),
    ):
        if bad:
            raise InputError(
                f"{path}: {what.format(listed(bad))}, expected one line for each case of the "
                "dataset and no other."
            )
    return patients


def listed(names: Sequence[str], most: int = 10) -> str:
    """A few names in words: "case 'a'", or "3 cases ('a', 'b', 'c')"."""
    if len(names) == 1:
        return f"case {names[0]!r}"
    shown = ", ".join(repr(name) for name in names[:most]) + ", ..." * (len(names) > most)
    return f"{len(names)} cases ({shown})"


def find_visits(names: Iterable[str]) -> dict[str, list[str]]:
    """{stem: names} where names look like several scans of a patient: P01_pre and P01_post.

    What follows the stem looks like a visit: a word such as pre, v1 or ses-2, a letter, or, after a
    stem with a number that is no year, a number or date. A running number (la_003, scan_2018_003)
    that many cases share is none.
    """
    names = list(names)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        stem = _stem(name)
        if stem:
            groups[stem.lower()].append(name)
    many = max(5, len(names) // 4)  # more scans than this has no patient
    return {
        stem: group
        for stem, group in groups.items()
        if len(group) > 1
        and not (_running(stem, group) and (len(group) > many or 2 < len(group) == len(names)))
    }


def visits_rule(names: Sequence[str]) -> str:
    """A regular expression for `config.data.patient` that fits these names; "" for none found.

    It takes just the cases of `find_visits` together and leaves all others alone.
    """
    stems = {name: stem for stem, group in find_visits(names).items() for name in group}
    expected = [stems.get(name, f"/{name}") for name in names]
    rests = {re.escape(name[len(stem) :]).replace(r"\-", "-") for name, stem in stems.items()}
    for ends in ({re.sub("[0-9]+", "[0-9]+", rest) for rest in rests}, rests):
        rule = f"^(.+?)(?:{'|'.join(sorted(ends))})?$"
        found = [match[1] if (match := re.search(rule, name)) else "" for name in names]
        same = len(set(zip(found, expected))) == len(set(found)) == len(set(expected))
        if same and all(found) and len(rule) <= 200:
            return rule
    return ""


def _stem(name: str) -> str | None:
    """What of a name would be the patient if the rest were a visit; None without such a rest."""
    found = re.match(r"(sub-[A-Za-z0-9]+)[_\-. ]", name)  # BIDS
    if found:
        return found[1]
    for separator in re.finditer(r"(?<=[^_\-. ])[_\-. ]+", name):
        stem, rest = name[: separator.start()], name[separator.end() :]
        part = re.split(r"[_\-. ]", rest)[0]
        numbered = re.search("[0-9]", _YEAR.sub("", stem))
        if numbered and (_VISIT.fullmatch(part) or _NUMBER.fullmatch(part)):
            return stem
        if part == rest and _VISIT.fullmatch(part):
            return stem
    found = re.fullmatch(r"(.*[0-9])[A-Za-z]", name)
    return found[1] if found else None


def _running(stem: str, names: Sequence[str]) -> bool:
    """Whether what follows the stem differs in its number only."""
    rests = [name[len(stem) :] for name in names]
    return all(map(re.compile("[0-9]").search, rests)) and (
        len({re.sub("[0-9]+", "", rest) for rest in rests}) == 1
    )


def group_duplicates(
    cases: Sequence[Case], contents: Mapping[str, Mapping[str, str]]
) -> list[Case]:
    """Gives cases with byte-identical image files the same patient.

    LAScarQS task 1, task 2 and the 2018 challenge share patients under different names; a copy of
    a training image in the test set would be scored from memory.

    Args:
        cases: of any patients.
        contents: {case: {"image": SHA-256}}.
    """
    merged_into: dict[str, str] = {}

    def patient_of(patient: str) -> str:
        while patient in merged_into:
            patient = merged_into[patient]
        return patient

    first_with: dict[str, str] = {}
    for case in cases:
        image = contents[case.name]["image"] or f"unreadable {case.name}"
        first = patient_of(first_with.setdefault(image, case.patient))
        if patient_of(case.patient) != first:
            merged_into[patient_of(case.patient)] = first
    return [replace(case, patient=patient_of(case.patient)) for case in cases]
