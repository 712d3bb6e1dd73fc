"""Builds HTML and SVG in which text from outside is always escaped."""

import base64
from collections.abc import Iterable
from html import escape

VOID = ("meta", "img")  # elements without an end
URLS = ("href", "src")  # the attributes that a browser may follow
MINUS, DASH, SPACE = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{NO-BREAK SPACE}"


class Html(str):
    """Markup. Only this module makes it; a sum or a join of it is plain text again."""


Content = str | Iterable[str]  # text (which is escaped), Html (which is not), or several of them


def tag(element: str, /, *content: Content, **attributes: object) -> Html:
    """One element: `tag("b", "1 < 2", class_="on")` is `<b class="on">1 &lt; 2</b>`.

    Args:
        element: its name.
        content: what stands in it.
        attributes: an underscore stands for a hyphen, one at the end for nothing; those that are
            None are left out.

    Raises:
        ValueError: an address that leads out of the page.
    """
    start = f"<{element}"
    for key, value in attributes.items():
        if key in URLS and not str(value).startswith(("#", "data:image/png;base64,")):
            raise ValueError(f"{key} is {value!r}, expected a place or a picture in the page")
        if value is not None:
            start += f' {key.rstrip("_").replace("_", "-")}="{_escape(str(value))}"'
    return Html(f"{start}>" if element in VOID else f"{start}>{join(*content)}</{element}>")


def join(*content: Content) -> Html:
    """The contents one after the other."""
    parts = (part for one in content for part in ([one] if isinstance(one, str) else one))
    return Html("".join(part if isinstance(part, Html) else _escape(part) for part in parts))


def raw(name: str, text: str) -> Html:
    """A `style` or `script`, whose text no browser unescapes.

    Raises:
        ValueError: the text would end the element.
    """
    if "</" in text:
        raise ValueError(f"the text of <{name}> has `</` in it, expected one of our own files")
    return Html(f"<{name}>{text}</{name}>")


def png(picture: bytes, **attributes: object) -> Html:
    """An image with its bytes in the page."""
    data = base64.b64encode(picture).decode()
    return tag("img", src=f"data:image/png;base64,{data}", **attributes)


def document(head: Html, body: Html) -> str:
    """The whole text of a page."""
    page = tag("html", tag("head", head), tag("body", body), lang="en")
    return f"<!doctype html>\n{page}\n"


def _escape(text: str) -> str:
    # What is no Unicode (the name of a file may be so) cannot be written in UTF-8.
    return escape(text.encode("utf-8", "replace").decode())
