"""The report says what the files say, whatever is in them, and stands alone."""

import base64
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from lagseg_jax import report
from lagseg_jax.evaluation.statistics import bland_altman, bootstrap_interval
from lagseg_jax.reports.figures import bland_altman_figure, curve_figure, number, strip
from lagseg_jax.reports.page import write_report
from lagseg_jax.runtime.errors import InputError
from report_files import STRANGE, write_evaluation

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M/wHwAEBgIApD5fRAAAAABJRU5ErkJggg=="
)


class Outline(HTMLParser):
    """Raises unless every element is closed in order; collects texts and links."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.links = [], [], []
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "data", "srcset", "action")]

    def handle_startendtag(self, tag, attributes):
        pass  # closed SVG elements

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, text):
        self.texts.append(text)


def report_of(tmp_path, count, **options):
    rows = write_evaluation(tmp_path / "run", count, **options)
    for rank, row in zip(("worst", "median", "best"), rows[1:]):
        (tmp_path / "run/evaluation/overlays" / f"{rank}_{row['case']}.png").write_bytes(PIXEL)
    page = write_report(tmp_path / "run" / "evaluation").read_text()
    return page, Outline(page), rows


def test_every_number_is_that_of_the_table(tmp_path):
    page, outline, rows = report_of(tmp_path, 7)
    for metric, digits in (("dice", 3), ("iou", 3), ("hd95_mm", 2), ("slice_dice", 3)):
        values = np.array([row[metric] for row in rows])
        finite = values[np.isfinite(values)]
        card = f'<p class="value">{finite.mean():.{digits}f}<small>'
        low, high = bootstrap_interval(values)
        assert card in page, metric
        assert f"<p>95 %: {low:.{digits}f} to {high:.{digits}f}</p>" in page, metric
        assert f"SD {finite.std(ddof=1):.{digits}f}, n = {finite.size}</p>" in page, metric
        for value in finite:
            assert f'<td data-value="{value:.9g}">' in page
    assert "1 predicted; 1 case without surface distances" in page
    cases = [text for text in outline.texts if text == STRANGE or re.fullmatch(r"train_\d", text)]
    assert cases == [row["case"] for row in sorted(rows, key=lambda row: row["dice"])]
    assert "†" not in page


def test_it_stands_alone_and_escapes_names(tmp_path):
    page, outline, _ = report_of(tmp_path, 5, warning="weights are <random>")
    assert STRANGE not in page and STRANGE in outline.texts
    assert "weights are &lt;random&gt;" in page.lower() and 'class="banner"' in page
    assert sum(link.startswith("data:image/png;base64,") for link in outline.links) == 3
    assert all(link.startswith(("data:image/", "#")) for link in outline.links)
    assert "://" not in page and "default-src 'none'" in page
    assert page.count("<script") == 1


def test_a_consistent_run_with_real_weights_has_no_banner(tmp_path):
    page, _, _ = report_of(tmp_path, 5)
    assert 'class="banner"' not in page and page.count("as it must be") == 2


@pytest.mark.parametrize("count", [1, 2])
def test_few_cases_are_marked(tmp_path, count):
    page, _, _ = report_of(tmp_path, count)
    assert page.count("&nbsp;†</p>") == 7 and "With fewer than 3 cases" in page


def test_impossible_tables_are_called_so(tmp_path):
    rows = write_evaluation(tmp_path, 5)
    path = tmp_path / "evaluation" / "summary.json"
    floor = np.mean([r["dice"] for r in rows]) / (2 - np.mean([r["dice"] for r in rows]))
    wrong = f'"found": {floor - 0.02}, "consistent": false'
    path.write_text(
        re.sub(r'"found": [\d.]+, "consistent": true', wrong, path.read_text(), count=1)
    )
    page = write_report(tmp_path / "evaluation").read_text()
    assert page.count("<strong>Inconsistent.") == 1


def test_what_is_not_there_is_said(tmp_path):
    write_evaluation(tmp_path, 3)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "evaluation" / "fusion_weights.csv").unlink()
    page = write_report(tmp_path / "evaluation").read_text()
    for sentence in ("no metrics.jsonl", "no fusion_weights.csv", "no manifest", "no overlay"):
        assert f"There {'are' if 'overlay' in sentence else 'is'} {sentence}" in page


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("summary.json", None, "FileNotFoundError"),
        ("summary.json", "{", "JSONDecodeError"),
        ("summary.json", '{"encoder": {}}', "no step"),
        ("per_case.csv", None, "FileNotFoundError"),
        ("per_case.csv", "case,dice\na,many\n", "many"),
        ("per_case.csv", "case,dice\na,0.5\n", "KeyError"),
        ("fusion_weights.csv", "scale,block_0\n", "ValueError"),
        ("fusion_weights.csv", "scale,block_0\n1/14,x\n", "x"),
        ("manifest.json", "[]", "no date"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, found):
    write_evaluation(tmp_path, 3)
    path = tmp_path / "evaluation" / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=re.escape(str(path))) as caught:
        write_report(tmp_path / "evaluation")
    assert found in str(caught.value)
    assert not (tmp_path / "evaluation" / "report.html").exists()


def test_command_line_needs_no_jax(tmp_path):
    write_evaluation(tmp_path, 3)
    script = f"""
import sys
from lagseg_jax import report
from lagseg_jax.runtime import console
print(console.exit_status(lambda: report.main([{str(tmp_path)!r}])), 'jax' in sys.modules)
print(console.exit_status(lambda: report.main([{str(tmp_path / "none")!r}])))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["0", "False", "2"]
    said = done.stderr.splitlines()
    assert said[0] == str(tmp_path / "evaluation" / "report.html")
    assert said[1].startswith("error: ") and "summary.json" in said[1] and len(said) == 2


def test_report_of_a_run(finished_run, tmp_path):
    """What `evaluate` left is complete, and the command line makes the same page again."""
    page = (finished_run / "evaluation" / "report.html").read_text()
    Outline(page)
    assert "<strong>Random encoder.</strong> The DINOv2 encoder has random weights" in page
    assert "There is no" not in page and page.count('src="data:image/png') == 2
    assert page.count('<svg class="wide"') == 1 and page.count('<path class="line first"') == 2
    table = np.loadtxt(finished_run / "evaluation/fusion_weights.csv", str, delimiter=",")
    assert table[1:, 0].tolist() == ["1/14", "1/4", "1/2"]
    np.testing.assert_allclose(table[1:, 1:].astype(float).sum(1), 1, atol=1e-5)
    copy = tmp_path / finished_run.name
    shutil.copytree(finished_run, copy, ignore=shutil.ignore_patterns("checkpoints", "*.html"))
    assert report.main([str(copy)]) == 0
    assert (copy / "evaluation" / "report.html").read_text() == page


def test_200_cases_stay_small(tmp_path):
    write_evaluation(tmp_path, 200, blocks=40)
    for rank in ("worst", "median", "best"):
        picture = tmp_path / "evaluation" / "overlays" / f"{rank}_train_3.png"
        picture.write_bytes(bytes(1_100_000))  # what overlay.MOST_PIXELS comes to
    assert write_report(tmp_path / "evaluation").stat().st_size < 5e6


def test_numbers():
    assert number(-1.25, 1) == "&minus;1.2" and number(-0.004, 2) == "0.00"
    assert number(np.nan, 2) == "&ndash;" and number(0.9, 3) == "0.900"


def places(figure, element="circle", names=("cx", "cy")):
    found = re.findall(f"<{element} [^>]*>", figure)
    return [tuple(float(re.search(rf'\b{n}="([^"]*)"', tag)[1]) for n in names) for tag in found]


def test_bland_altman_figure_is_drawn_to_scale():
    truth, prediction = np.array([50.0, 100, 150, np.nan]), np.array([48.0, 106, 150, 40])
    limits = bland_altman(truth, prediction)
    figure = bland_altman_figure(truth, prediction, list("abcd"), limits)
    (xa, ya), (xb, yb), (xc, yc) = places(figure)
    # Means 49, 103, 150; differences -2, 6, 0; upwards is smaller.
    np.testing.assert_allclose((xb - xa) / (xc - xa), 54 / 101, atol=0.002)
    np.testing.assert_allclose((ya - yb) / (ya - yc), 8 / 2, atol=0.02)
    bias = float(re.search(r'class="line second" d="M\S+ (\S+)H', figure)[1])
    np.testing.assert_allclose((ya - bias) / (ya - yc), (limits["bias"] + 2) / 2, atol=0.02)
    assert figure.count('class="line dashed"') == 2
    one = bland_altman_figure(truth[:1], prediction[:1], ["a"], bland_altman([50], [48]))
    assert one.count("<circle") == 1 and "dashed" not in one
    assert bland_altman_figure(truth[3:], prediction[3:], ["d"], limits) == ""


def test_curves_are_drawn_to_scale_and_thinned():
    steps = list(range(10, 10_010, 10))
    curves = {"training": (steps, [1 / step for step in steps]), "validation": ([], [])}
    figure = curve_figure(curves, "loss", 5000)
    points = re.search(r'class="line first" d="M([^"]*)"', figure)[1].split("L")
    assert len(points) == 400 and "validation" not in figure and "step 5000" in figure
    short = curve_figure({"a": ([0, 50, 100], [0.5, 0.0, 1.0])}, "Dice", None)
    (xa, ya), (xb, yb), (xc, yc) = places(short)
    np.testing.assert_allclose((xb - xa, yb - yc), ((xc - xa) / 2, 2 * (ya - yc)), atol=0.2)
    assert curve_figure({"a": ([], [])}, "Dice", None) == ""


def test_strip_has_a_dot_for_each_value():
    figure = strip(np.array([0.5, np.nan, 0.75, 1.0]), list("abcd"), (0.55, 0.95), 2)
    dots = places(figure)
    np.testing.assert_allclose([x for x, _ in dots], [5, 90, 175])
    interval = re.search(r'class="line second" d="M(\S+) 38H(\S+)"', figure)
    np.testing.assert_allclose([float(interval[1]), float(interval[2])], [22, 158])
    assert strip(np.array([np.nan]), ["a"], (np.nan, np.nan), 2) == ""
    assert strip(np.array([0.7, 0.7]), ["a", "b"], (np.nan, np.nan), 2).count("<circle") == 2
