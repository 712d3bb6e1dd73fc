"""The report says what the files say, whatever is in them, and stands alone."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lagseg_jax import report
from lagseg_jax.evaluation.metrics import METRICS
from lagseg_jax.evaluation.statistics import bootstrap_interval
from lagseg_jax.reports.page import write_report
from lagseg_jax.runtime.errors import InputError
from report_files import STRANGE, write_evaluation
from report_outline import MANIFEST, PIXEL, Outline

CHECKED = {"consistent": None, "found": None, "floor": None}
SUMMARY = {
    **{"encoder": {"variant": "base", "weights": "w"}, "step": 60, "n_empty_truth": 0},
    **{"n_empty_prediction": 0, "n_distances_excluded": 0},
    "dice_iou_check": {"volume": CHECKED, "slice": CHECKED},
}


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
    assert "://" not in page and page.count("<script") == 1
    policy = dict(part.split(" ", 1) for part in outline.policy.split("; "))
    assert policy.pop("img-src") == "data:"
    for kind in ("style", "script"):
        text = re.search(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert policy == dict.fromkeys(("default-src", "form-action", "base-uri"), "'none'")


def test_the_page_says_whether_patients_were_known(tmp_path):
    write_evaluation(tmp_path, 5)
    for patients in ("by file: no patients known", "by patient (^(P.))"):
        (tmp_path / "splits.json").write_text(json.dumps({"patients": patients}))
        assert f"split {patients}" in write_report(tmp_path / "evaluation").read_text()


def test_the_page_says_the_parts_and_what_was_accepted(tmp_path):
    write_evaluation(tmp_path, 5)
    parts = {"train": ["a"] * 7, "validation": ["b"] * 2, "test": ["c"] * 5}
    (tmp_path / "splits.json").write_text(json.dumps({"patients": "by file", **parts}))
    assert "accepted problems" not in write_report(tmp_path / "evaluation").read_text()
    content = MANIFEST | {"config": {"fusion": {}, "data": {"allow": ["slab", "shear"]}}}
    (tmp_path / "evaluation" / "manifest.json").write_text(json.dumps(content))
    page = write_report(tmp_path / "evaluation").read_text()
    assert page.count("split by file: 7 training, 2 validation, 5 test cases") == 2
    assert page.count("accepted problems of the data: slab, shear") == 2


def test_a_consistent_run_with_real_weights_has_no_banner(tmp_path):
    page, _, _ = report_of(tmp_path, 5)
    assert 'class="banner"' not in page and page.count("as it must be") == 2


@pytest.mark.parametrize("count", [1, 2])
def test_few_cases_are_marked(tmp_path, count):
    page, _, _ = report_of(tmp_path, count)
    assert page.count("\N{NO-BREAK SPACE}†</p>") == 7 and "With fewer than 3 cases" in page


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
        ("summary.json", None, "No such file"),
        ("summary.json", "{", "Expecting property name"),
        ("summary.json", '{"encoder": {}}', "no step"),
        ("per_case.csv", None, "FileNotFoundError"),
        ("per_case.csv", "case,dice\na,many\n", "many"),
        ("per_case.csv", "case,dice\na,0.5\n", "KeyError"),
        ("fusion_weights.csv", "scale,block_0\n", "ValueError"),
        ("fusion_weights.csv", "scale,block_0\n1/14,x\n", "x"),
        ("manifest.json", "[]", "JSON list found"),
        ("manifest.json", '{"date": ' + 100_000 * "[", "nested too deep"),
        ("summary.json", json.dumps(SUMMARY | {"encoder": 3}), "encoder is no object"),
        ("summary.json", json.dumps(SUMMARY | {"step": True}), "step is 'True'"),
        ("summary.json", json.dumps(SUMMARY | {"step": 10**400}), "step is '1000"),
        ("per_case.csv", "case," + ",".join(METRICS) + "\na" + ",1e300" * len(METRICS), "beyond"),
        ("fusion_weights.csv", "scale,block_0\n1/14,0\n", "no shares"),
        ("fusion_weights.csv", "scale,block_0\n1/14,nan\n", "no shares"),
        ("fusion_weights.csv", '"' + "x" * 200_000, "Error"),
        ("../metrics.jsonl", "[" * 100_000, "nested too deep"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, found):
    write_evaluation(tmp_path, 3)
    path = tmp_path / "evaluation" / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=re.escape(path.name)) as caught:
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
    shutil.copytree(finished_run, copy, ignore=shutil.ignore_patterns("checkpoints", "report.html"))
    assert report.main([str(copy)]) == 0
    assert (copy / "evaluation" / "report.html").read_text() == page


def test_200_cases_stay_small(tmp_path):
    write_evaluation(tmp_path, 200, blocks=40)
    for rank in ("worst", "median", "best"):
        picture = tmp_path / "evaluation" / "overlays" / f"{rank}_train_3.png"
        picture.write_bytes(bytes(1_100_000))  # what overlay.MOST_PIXELS comes to
    assert write_report(tmp_path / "evaluation").stat().st_size < 5e6
