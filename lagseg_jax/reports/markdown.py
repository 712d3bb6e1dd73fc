"""Builds tables in Markdown; text from outside cannot end a cell or become markup."""

import re
from collections.abc import Iterable


def plain(text: str) -> str:
    """Text from outside on one line, shown as it is."""
    return re.sub(r"[\\|<\[`]", r"\\\g<0>", " ".join(text.split()))


def decimal(value: float | None, digits: int) -> str:
    """A number with so many digits behind the point; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def table_row(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def table_head(titles: list[str]) -> list[str]:
    """The first two lines of a table."""
    return [table_row(titles), "|---" * len(titles) + "|"]
