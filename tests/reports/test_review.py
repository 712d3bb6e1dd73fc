"""The table of the cases: what needs a look first, nothing from outside as markup; and its list."""

import re
from argparse import Namespace
from html import unescape

import numpy as np
import pytest

from lagseg_jax.inference.mask_statistics import mask_statistics
from lagseg_jax.inference.records import Record
from lagseg_jax.reports.review import (
    ReviewedCase,
    by_need,
    with_unusual_volumes,
    write_evaluation_review,
    write_prediction_review,
)
from lagseg_jax.reports.review_case import case_page
from lagseg_jax.reports.verdicts import listed, read_verdicts
from lagseg_jax.runtime.errors import InputError
from report_files import STRANGE, write_evaluation


def case(name, dice=np.nan, warnings=(), volume=90.0):
    return ReviewedCase(name, {"Dice": dice, "Volume (mL)": volume}, list(warnings))


def test_what_needs_a_look_comes_first():
    cases = [case("good", 0.95), case("warned", 0.97, ["w"]), case("bad", 0.2)]
    cases += [case("worse", 0.9, ["v", "w"]), case("undefined")]
    names = [one.name for one in by_need(cases)]
    assert names == ["worse", "warned", "undefined", "bad", "good"]
    without = [ReviewedCase(name, {"Volume (mL)": 90.0}) for name in "bca"]
    assert [one.name for one in by_need(without)] == ["b", "c", "a"]


def test_a_volume_unlike_the_others_is_said():
    volumes = [80, 85, 90, 95, 100, 105, 110, 300]
    marked = with_unusual_volumes([case(str(v), volume=v) for v in volumes])
    assert [bool(one.warnings) for one in marked] == [False] * 7 + [True]
    few = with_unusual_volumes([case(str(v), volume=v) for v in volumes[1:]])
    assert not any(one.warnings for one in few)
    same = with_unusual_volumes([case(str(n), volume=90.0) for n in range(9)])
    assert not any(one.warnings for one in same)


def test_the_page_of_an_evaluation(tmp_path):
    rows = write_evaluation(tmp_path / "run", 7)
    folder = tmp_path / "run" / "evaluation"
    (folder / "review").mkdir()
    for row in rows[1:5]:
        (folder / "review" / f"{row['case']}.html").write_text(row["case"])
    page = write_evaluation_review(folder).read_text()
    found = re.findall(r'<tr data-case="(.*?)" data-sha="(.*?)">', page)
    assert len(found) == 7 and found[0][0] == "train_1"  # its prediction is empty
    assert page.count('href="./review/train_') == 4 and STRANGE not in page
    assert len({sha for _, sha in found}) == 5  # a verdict is on one page, not on a name
    assert "nothing was found" in page and "Dice below 0.8" in page
    assert "default-src 'none'; img-src data:;" in unescape(page) and "connect-src" not in page
    assert not re.search(r"https?://", page)


def test_a_prediction_says_each_thing_once(tmp_path):
    mask = np.zeros((5, 7, 11), np.uint8)
    mask[0, 2, 3] = mask[3, 5, 7] = 1
    row = mask_statistics(mask, np.eye(4))
    row["remarks"] = f"its orientation was told; {row['remarks']}"
    page = tmp_path / "review" / "a.html"
    page.parent.mkdir()
    page.write_text("a")
    Record.of(tmp_path, "a").begin({}, [page]).finish({}, [page], row)
    write_prediction_review(tmp_path)
    found = (tmp_path / "review.html").read_text()
    for said in ("was told", "reaches the border", "outside 20-300 mL", "2 components"):
        assert found.count(said) == 1, said


def test_the_page_of_a_case_escapes_and_loads_nothing():
    view = {"plane": "axial", "letters": ["R", "L", "A", "P"]}
    content = {"views": [view] * 3, "truth": False, "probability": None, "images": ["</script>"]}
    page = case_page("<b>x</b>", content)
    assert "<b>x" not in page and page.count("</script>") == 2 and 'id="truth"' not in page
    assert "default-src 'none'; img-src data:;" in unescape(page) and not re.search(
        r"https?://", page
    )
    assert "Axial picture, R left, L right, A top, P bottom" in page


def choose(path, verdict, *names):
    return list(listed(Namespace(cases=str(path), verdict=verdict), {name: 0 for name in names}))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_lists_of_verdicts(tmp_path, separator):
    path = tmp_path / "v.csv"
    lines = ["case,verdict,note", "b,reject,", "'=a,accept,'=1", "c,,x", "'quoted,correct,"]
    path.write_text("\ufeff" + "\r\n".join(lines).replace(",", separator) + "\r\n")
    expected = {"b": "reject", "=a": "accept", "c": "", "'quoted": "correct"}
    assert read_verdicts(path) == expected
    names = ["'quoted", "=a", "b", "c", "other"]
    assert choose(path, "", *names) == names[:4]
    assert choose(path, "reject,correct", *names) == ["'quoted", "b"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "has no column `case`"),
        ("name,verdict\na,accept\n", "has no column `case`"),
        ("case,verdict\na,accepted\n", "has the verdict 'accepted'"),
        ("case\nz\n", "'z' is none of the cases found here"),
        ("case,verdict\na,accept\n", "no case with the verdict reject"),
        (b"case\n\xff\n", "is no table"),
        ("case\n" + "a" * 200_000 + "\n", "is no table"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, content, found):
    path = tmp_path / "v.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=rf"v\.csv.*{found}.*, expected"):
        choose(path, "reject" if "reject" in found else "", "a", "b")


def test_a_list_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path / "v.csv", tmp_path):
        with pytest.raises(InputError, match=r"cannot be read \(.*expected the CSV"):
            choose(path, "", "a")
