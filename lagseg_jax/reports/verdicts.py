"""Reads the list of verdicts that a review page saved: which cases a command shall take."""

import argparse
import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from lagseg_jax.reports.review import VERDICTS
from lagseg_jax.runtime.errors import InputError, one_of
from lagseg_jax.runtime.files import open_file

MOST_BYTES = 2**24
One = TypeVar("One")


def add_list_options(add: Callable) -> None:
    """Adds `--cases` and `--verdict` to a command's options; `add` is `add_argument`."""
    add("--cases", metavar="FILE", help="only the cases in this CSV, as a review page saves it")
    about = f"of them only those with this verdict: {', '.join(VERDICTS)}; several with commas"
    add("--verdict", default="", help=about)


def listed(options: argparse.Namespace, known: Mapping[str, One]) -> dict[str, One]:
    """What is known of the cases that the options name, in the order of `known`.

    Args:
        options: `cases`, a CSV with the columns `case` and, for a verdict, `verdict`; without it
            all cases count. `verdict`, names of `VERDICTS` with commas between; "" for every case
            of the list.
        known: {case: anything}.

    Raises:
        InputError: no such verdict, a file that is no such list, a case that is not known, or no
            case left.
    """
    file, wanted = options.cases, [one for one in options.verdict.split(",") if one]
    if not file:
        if wanted:
            raise InputError("--verdict is given without --cases, expected the list, too")
        return dict(known)
    for one in wanted:
        one_of("--verdict", one, VERDICTS)
    rows = read_verdicts(Path(file))
    names = {case for case, given in rows.items() if not wanted or given in wanted}
    if strange := sorted(names - known.keys()):
        raise InputError(
            f"{file}: {strange[0]!r} is none of the cases found here, expected names such as "
            f"{next(iter(known), 'none')!r}"
        )
    if not names:
        what = f"the verdict {' or '.join(wanted)}" if wanted else "cases"
        raise InputError(f"{file}: no case with {what} found, expected one or more")
    return {name: one for name, one in known.items() if name in names}


def read_verdicts(path: Path) -> dict[str, str]:
    """{case: verdict, "" where none was given} of a list, in its order.

    Spreadsheets may have written it again: with semicolons, with a byte order mark.

    Raises:
        InputError: no such file, or not such a list.
    """
    expected = "expected the CSV that review.html saves, with the columns case,verdict,note"
    try:
        with open_file(path) as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}), {expected}") from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is no table ({error}), {expected}") from None
    if not rows or "case" not in rows[0] or len(content) > MOST_BYTES:
        raise InputError(f"{path} has no column `case` or no row, {expected}")
    found = {_plain(row["case"] or ""): (row.get("verdict") or "").strip() for row in rows}
    found.pop("", None)
    if wrong := next((v for v in found.values() if v and v not in VERDICTS), None):
        raise InputError(f"{path} has the verdict {wrong!r}, expected one of {', '.join(VERDICTS)}")
    return found


def _plain(name: str) -> str:
    """The name without the apostrophe that keeps spreadsheets from taking it for a formula."""
    return name[1:] if name[:1] == "'" and name[1:2] in ("=", "+", "-", "@", "\t") else name
