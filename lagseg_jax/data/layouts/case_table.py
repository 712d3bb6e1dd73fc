"""Reads the cases of a dataset from a table that the user made: image, label, patient, part."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from lagseg_jax.data.cases import Case
from lagseg_jax.imaging.dicom_files import holds_dicom
from lagseg_jax.imaging.volume import SUFFIXES, case_name, is_volume_file
from lagseg_jax.runtime.errors import InputError, nearest_name

COLUMNS = ("image", "label", "case", "patient", "part")
PARTS = ("train", "validation", "test")


def is_table(images: str) -> bool:
    """Whether `images` names a table, not a pattern."""
    return images.lower().endswith(".csv")


def table_path(root: Path, table: str, option: str) -> Path:
    """The table in the dataset's folder, or else where its name says.

    Raises:
        InputError: it is in neither place.
    """
    for path in (root / table, Path(table).expanduser()):
        if path.is_file():
            return path
    raise InputError(
        f"{option} is {table!r}, but neither {root / table} nor {Path(table).absolute()} is a "
        f"file, expected a CSV with the columns {','.join(COLUMNS)}."
    )


def table_cases(root: Path, path: Path) -> list[Case]:
    """The cases of a CSV `image,label[,case][,patient][,part]`, paths relative to it.

    A case without a name in the column `case` is named by the file of its image, or, where these
    are the same, by its folders, too.

    Args:
        root: that no path may leave.
        path: of the CSV.

    Raises:
        InputError: a table that cannot be read, an unknown column, a path outside `root`, a file or
            a name twice, a part that does not exist, or a training case without label.
    """
    rows = _rows(path)
    images = [Path(row["image"]) for row in rows]
    short = [case_name(image) for image in images]
    distinct = len(set(short)) == len(short)
    names = short if distinct else ["_".join((*i.parts[:-1], case_name(i))) for i in images]
    names = [row["case"] or name for row, name in zip(rows, names)]
    told = any(row["part"] for row in rows)
    cases: dict[str, Case] = {}
    used: dict[Path, str] = {}
    for name, row in zip(names, rows):
        line = row["line"]
        image = _inside(root, path, line, row["image"])
        label = _inside(root, path, line, row["label"]) if row["label"] else None
        for file in filter(None, (image, label)):
            if used.setdefault(file, line) != line or image == label:
                raise InputError(
                    f"{path}: {file} found in lines {used[file]} and {line}, expected every file "
                    "once."
                )
        _check_part(path, row, told)
        case = Case(name, row["patient"] or name, image, label, row["part"])
        if cases.setdefault(name, case) is not case:
            raise InputError(
                f"{path}: {image} and {cases[name].image} are both named {name}, expected names "
                "that differ."
            )
    return list(cases.values())


def _rows(path: Path) -> list[dict[str, str]]:
    """The lines as {column: cell}, all of `COLUMNS` in each, and "line", its number."""
    lines: list[tuple[int, list[str]]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in reader:
                if any(cells):
                    lines.append((reader.line_num, [cell.strip() for cell in cells]))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}), expected a CSV.") from None
    head = lines[0][1] if lines else []
    expected = "image,label, and case, patient or part if known"
    for column in head:
        if column not in COLUMNS or head.count(column) > 1:
            raise InputError(
                f"{path}: column {column!r} found, expected {expected}"
                f"{nearest_name(column, COLUMNS, 0.5)}"
            )
    if not {"image", "label"} <= set(head) or len(lines) < 2:
        found = f"{','.join(head)!r} and {max(0, len(lines) - 1)} more lines"
        raise InputError(f"{path}: {found} found, expected the columns {expected}, and cases.")
    rows = []
    for number, cells in lines[1:]:
        row = dict.fromkeys(COLUMNS, "") | dict(zip(head, cells)) | {"line": str(number)}
        if len(cells) != len(head) or not row["image"]:
            raise InputError(
                f"{path}: line {number} is {','.join(cells)!r}, expected {','.join(head)}."
            )
        rows.append(row)
    return rows


def _inside(root: Path, table: Path, line: str, cell: str) -> Path:
    """The file that a cell names; links may lead anywhere, names may not."""
    path = table.parent / cell
    # os.path: what the name says, not where links lead.
    whole, folder = os.path.abspath(path), os.path.abspath(root)
    if os.path.commonpath([whole, folder]) != folder:
        raise InputError(
            f"{table}: line {line} names {cell}, which leaves {root}, expected a path in it."
        )
    if not is_volume_file(path) and not holds_dicom(path):
        raise InputError(
            f"{table}: line {line} names {cell}, expected a file in {', '.join(SUFFIXES)} or a "
            "DICOM series or segmentation."
        )
    return path


def _check_part(table: Path, row: Mapping[str, str], told: bool) -> None:
    part, line = row["part"], row["line"]
    if told and part not in PARTS:
        raise InputError(
            f"{table}: line {line} has the part {part!r}, expected one of {', '.join(PARTS)} in "
            f"every line{nearest_name(part, PARTS, 0.5)}"
        )
    if part in PARTS[:2] and not row["label"]:
        raise InputError(
            f"{table}: line {line} has the part {part} and no label, expected one; only test cases "
            "can be without."
        )
