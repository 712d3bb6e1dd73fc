"""The pages of the documentation, and the code that stands in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS, ROOT / "launch" / "README.md"]
# Laboratory notes are dated: their commands and names are those of their own day.
NOTES = sorted((ROOT / "docs" / "log").glob("*.md"))
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`]+)`")
FOLDERS = "benchmarks|configs|docs|lagseg_jax|launch|tests|weight_conversion"


def name_of(page: Path) -> str:
    """The page as a person would call it."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [text for name, text in FENCE.findall(page.read_text()) if name == language]


def spans(page: Path) -> list[str]:
    """Code within a sentence or a table, each on one line."""
    return [" ".join(text.split()) for text in CODE.findall(FENCE.sub("", page.read_text()))]
