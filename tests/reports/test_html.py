"""What is not made by the builder is text."""

import json
import os
import re
from urllib.parse import unquote, unquote_to_bytes

import pytest

from lagseg_jax.reports.html import Html, beside, data, document, join, png, raw, tag


def test_text_and_attributes_are_escaped():
    found = tag("b", "1 < 2", tag("i", "&"), ['"', "'"], class_="on", data_value='"><', id=None)
    expected = '<b class="on" data-value="&quot;&gt;&lt;">1 &lt; 2<i>&amp;</i>&quot;&#x27;</b>'
    assert found == expected and isinstance(found, Html)
    assert tag("meta", http_equiv="a") == '<meta http-equiv="a">'


def test_a_sum_a_format_and_a_join_are_text_again():
    bold = tag("b", "x")
    for text in (bold + "<i>", "<i>" + bold, f"{bold}", "".join([bold]), bold.replace("x", "y")):
        assert not isinstance(text, Html) and "<" not in join(text)
    assert join(bold, [bold, "<"]) == "<b>x</b><b>x</b>&lt;"


OUTSIDE = ["./../x.html", "../x.html", "./a/../x.html", "./a/b/x.html", "./x.html?q", "x.html"]
OUTSIDE += ["./x.svg", "./x.html/../../y", "./.x.html", "./a b.html", "/x.html", "file:///x.html"]


@pytest.mark.parametrize("key", ["href", "src"])
@pytest.mark.parametrize(
    "value", ["javascript:x()", "//x.example", "data:text/html,x", "", " #a", *OUTSIDE]
)
def test_no_address_leads_out_of_the_page(key, value):
    with pytest.raises(ValueError, match="expected a place or a picture in the page"):
        tag("a", "x", **{key: value})
    assert tag("a", "x", href="#x") == '<a href="#x">x</a>'


def test_a_style_cannot_end_early():
    assert raw("style", "a > b {}") == "<style>a > b {}</style>"
    with pytest.raises(ValueError, match="<style>"):
        raw("style", "a {} </style><b>")


def test_what_is_no_unicode_can_be_written():
    page = document("\ud800", png(b"\0", alt="\udfff"), {})
    assert page.encode() and '<img src="data:image/png;base64,AA==" alt="?">' in page


@pytest.mark.parametrize(
    "name", ["a b", "..", "../../x", "%2e", "#", "?", "<b>&\"'", "Ω", "\udcff"]
)
def test_pages_beside_this_one_are_reached_by_any_name(name):
    address = beside("review", f"{name}.html", place=name)
    path, _, place = address.partition("#")
    assert os.fsdecode(unquote_to_bytes(path)) == f"./review/{name}.html" and address.isascii()
    assert unquote(place) == name or name == "\udcff"
    assert path.count("/") == 2 and "/../" not in path and "/." not in path[1:]
    assert tag("a", "x", href=address).startswith('<a href="./review/')


def test_data_cannot_end_its_element():
    text = data("x", {"</script><b>": ["<!--", "\u2028"]})
    assert text.count("<") == 2 and json.loads(re.sub("<[^>]*>", "", text)) == {
        "</script><b>": ["<!--", "\u2028"]
    }
