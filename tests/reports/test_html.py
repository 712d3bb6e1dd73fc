"""What is not made by the builder is text."""

import pytest

from lagseg_jax.reports.html import Html, document, join, png, raw, tag


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


@pytest.mark.parametrize("key", ["href", "src"])
@pytest.mark.parametrize("value", ["javascript:x()", "//x.example", "data:text/html,x", "", " #a"])
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
