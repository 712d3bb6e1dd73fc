"""Nothing that a stranger's folder holds becomes markup, a link or a wait."""

import json
import os
import shutil

import pytest

from lagseg_jax.reports.page import write_report
from lagseg_jax.runtime.errors import InputError
from report_files import write_evaluation
from report_outline import MANIFEST, PIXEL, Outline

# What a stranger's folder may hold in place of names, paths, commands and dates.
PAYLOADS = [
    '<meta http-equiv="refresh" content="0;url=//x.example">',
    "<form action=javascript:x()><input name=y></form>",
    """"><script>x()</script>' onload='x()'""",
    "</title></style></script></pre></svg><b>x</b><!--",
    "&lt;b&gt;&#60;b>&amp;",
    "javascript:x()",
    "\ud800 is no Unicode, \x1b[31m neither nice",
]


def filled(content, text):
    """JSON with the text in place of every text, and as one more key and value of all objects."""
    if isinstance(content, dict):
        return {key: filled(value, text) for key, value in content.items()} | {text: text}
    if isinstance(content, list):
        return [filled(value, text) for value in content]
    return text if isinstance(content, str) else content


def write_strange(workdir, text):
    """Files of an evaluation with the text wherever a text can stand."""
    write_evaluation(workdir, 5, warning="w")
    folder = workdir / "evaluation"
    for name, content in (("manifest", MANIFEST), ("summary", None)):
        path = folder / f"{name}.json"
        content = content or json.loads(path.read_text())
        content["encoder"]["adapted"] = "LoRA"
        path.write_text(json.dumps(filled(content, text)))
    safe = text.encode("utf-8", "replace").decode()
    quoted = '"' + safe.replace('"', '""') + '"'
    table = (folder / "per_case.csv").read_text().splitlines()
    cases = [f"{quoted},{line.split(',', 1)[1]}" for line in table[-5:]]
    (folder / "per_case.csv").write_text("\n".join([table[0], *cases]))
    shares = (folder / "fusion_weights.csv").read_text().splitlines()
    shares[1:] = [f"{quoted},{line.split(',', 1)[1]}" for line in shares[1:]]
    (folder / "fusion_weights.csv").write_text("\n".join(shares))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    rows += [{"step": 70, "loss": text, "dice": [text]}, text, [text], {"step": text}]
    (workdir / "metrics.jsonl").write_text(
        "".join(f"{json.dumps(filled(r, text))}\n" for r in rows)
    )
    picture = folder / "overlays" / f"worst_{safe.replace('/', '')[:99]}.png"
    picture.write_bytes(PIXEL)


@pytest.mark.parametrize("text", PAYLOADS)
def test_nothing_from_outside_becomes_markup(tmp_path, text):
    """The elements and attributes of the page are those of a page with harmless texts."""
    outlines = []
    for name, content in (("plain", "plain"), (text.replace("/", "")[:50], text)):
        workdir = tmp_path / name.encode("utf-8", "replace").decode()
        write_strange(workdir, content)
        outlines.append(Outline(write_report(workdir / "evaluation").read_text()))
    plain, strange = outlines
    assert strange.elements == plain.elements and strange.policy == plain.policy
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in strange.links)
    safe = text.encode("utf-8", "replace").decode()
    assert sum(safe in shown for shown in strange.texts) > 15  # as text it is all there


def test_pictures_are_not_taken_through_links(tmp_path):
    write_evaluation(tmp_path / "run", 5)
    elsewhere = tmp_path / "secret.png"
    elsewhere.write_bytes(PIXEL)
    overlays = tmp_path / "run/evaluation/overlays"
    (overlays / "worst_train_1.png").symlink_to(elsewhere)
    os.mkfifo(overlays / "median_train_1.png")
    (overlays / "best_train_1.png").write_bytes(PIXEL)
    page = write_report(tmp_path / "run/evaluation").read_text()
    assert page.count("<img") == 1 and "Contours of the best case" in page
    shutil.rmtree(overlays)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/best_train_1.png").write_bytes(PIXEL)
    overlays.symlink_to(tmp_path / "pictures")
    assert "<img" not in write_report(tmp_path / "run/evaluation").read_text()


def test_a_pipe_is_not_waited_for(tmp_path):
    write_evaluation(tmp_path, 3)
    path = tmp_path / "evaluation" / "summary.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"summary\.json cannot be read"):
        write_report(tmp_path / "evaluation")
