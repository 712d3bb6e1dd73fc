"""README and docs: every link, path, module, field and figure exists, and pages stay short."""

import importlib
import json
import re
import shlex
import tomllib

import pytest

from configs import default
from lagseg_jax.config.choices import ALLOWED, SEVERITY
from pages import DOCS, FOLDERS, NOTES, PAGES, ROOT, blocks, name_of, spans

NAMED = re.compile(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*[\w/])(?:::(\w+))?")
MODULE = re.compile(r"(?<![\w./-])((?:lagseg_jax|weight_conversion|benchmarks)(?:\.\w+)+)")
MOST_WORDS = {"README.md": 700, "docs/performance.md": 700, "docs/accuracy.md": 700}
MOST_BYTES = 150_000  # of a picture


def anchors_of(page):
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", [*PAGES, *NOTES], ids=name_of)
def test_links_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        assert (page.parent / path).exists(), target
        assert not anchor or anchor in anchors_of(page.parent / path if path else page), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_and_tests_exist(page):
    for name, function in NAMED.findall(" ".join([*spans(page), *blocks(page, "sh")])):
        path = ROOT / name
        assert path.exists() or list(path.parent.glob(f"{path.name}.*")), name
        assert not function or f"def {function}(" in path.read_text(), f"{name}::{function}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_exist(page):
    for name in MODULE.findall(" ".join(spans(page))):
        if not (ROOT / name).exists():  # a file of that name, such as lagseg_jax.egg-info
            assert find(name), name


def find(name):
    """Whether a dotted name is a module, or something in one."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return bool(module) and hasattr(importlib.import_module(module), attribute)
    return True


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_fields_exist(page):
    text, fields = page.read_text(), default.get_config()
    for section, name in re.findall(r"\bconfig\.([a-z]+)\.([a-z_]+)", text):
        assert name in fields[section], f"config.{section}.{name}"
    for section, name in re.findall(r"`([a-z]+)\.([a-z_]+)(?:=[^`]*)?`", text):
        if section in fields and name != "safetensors":
            assert name in fields[section], f"{section}.{name}"


@pytest.mark.parametrize("name", MOST_WORDS)
def test_short_pages_stay_short(name):
    before_licence = (ROOT / name).read_text().split("\n## Licence\n")[0]
    assert len(before_licence.split()) <= MOST_WORDS[name]


def test_pictures_are_small():
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert pictures and max(path.stat().st_size for path in pictures) < MOST_BYTES
    shown = " ".join(page.read_text() for page in PAGES)
    assert all(f"images/{path.name})" in shown for path in pictures)


def test_the_index_has_every_page():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / "index.md").read_text())
    assert {page.name for page in DOCS} - {"index.md"} <= set(links)
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / "log" / "README.md").read_text())
    assert {page.name for page in NOTES} - {"README.md"} <= set(links)


@pytest.mark.parametrize("note", [n for n in NOTES if n.name != "README.md"], ids=name_of)
def test_a_note_has_its_tables_as_data(note):
    record = json.loads(note.with_suffix(".json").read_text())
    assert note.name == record["note"] and note.name.startswith(record["date"])
    assert f"`{record['commit']}`" in note.read_text()
    for table in record["tables"]:
        assert table["command"] and table["machine"] and table["rows"], table["section"]


def figures_of(text):
    """Means with their SD as they stand, other figures with a decimal as numbers."""
    pairs = re.findall(r"\d+\.\d+ ± \d+\.\d+", text)
    rest = re.sub(r"\d+\.\d+ ± \d+\.\d+", "", text)
    return [*pairs, *map(float, re.findall(r"\d+\.\d+|\d+(?= ms\b)", rest))]


@pytest.mark.parametrize("name", ["performance.md", "accuracy.md"])
def test_measured_figures_stand_in_a_note(name):
    known = set(figures_of(" ".join(note.read_text() for note in NOTES)))
    known |= {round(figure, 1) for figure in known if isinstance(figure, float)}
    rows = [row for row in (ROOT / "docs" / name).read_text().splitlines() if row.startswith("|")]
    cells = [cell for row in rows for cell in re.split(r"[|;]", row) if "predicted" not in cell]
    figures = figures_of("\n".join(cells))
    assert len(figures) > 10
    assert not [figure for figure in figures if figure not in known]


def test_predicted_figures_are_those_of_the_command(capsys):
    """docs/performance.md against its own command; a row for each config, a column per machine."""
    page = ROOT / "docs" / "performance.md"
    (command,) = [text for text in blocks(page, "sh") if "recipe_cost" in text]
    module, first, *others = shlex.split(command)[2:]
    rows = [
        row.split("|")[1:-1] for row in page.read_text().splitlines() if "predicted (b):" in row
    ]
    for config, *cells in rows:
        name = first.replace("configs/giant.py", str(ROOT / "configs" / config.strip(" `")))
        importlib.import_module(module).main([name, *others])
        printed = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
        wanted = [
            next(row[1:] for row in printed if row and row[0].strip().startswith(start))
            for start in ("step at 50%", "this volume", "memory: all together")
        ]
        for cell, (step, volume, memory) in zip(cells, zip(*wanted)):
            if found := re.search(r"predicted \(b\): (.+? ms), (.+? s), (.+? GB)", cell):
                assert found[1] == step.strip() and found[2] == volume.strip()
                assert found[3] == f"{float(memory.split()[0]):.1f} GB"
    assert len(rows) == 4


def test_every_check_has_its_line_in_the_docs():
    rows = (ROOT / "docs" / "check.md").read_text().splitlines()
    for code, severity in SEVERITY.items():
        assert any(f"`{code}`" in row and f"| {severity} |" in row for row in rows), code


def test_what_can_be_accepted_is_what_the_docs_say():
    text = (ROOT / "docs" / "check.md").read_text()
    (listed,) = re.findall(r"these can be accepted: (.+?):\n", text, re.DOTALL)
    assert re.findall(r"`(\w+)`", listed) == list(ALLOWED)


def test_citation_and_changelog_are_of_this_version():
    yaml = pytest.importorskip("yaml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"] and citation["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert "2502.06615" in citation["preferred-citation"]["url"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
