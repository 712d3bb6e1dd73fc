"""Builds HTML and SVG in which text from outside is always escaped."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources

RESEARCH = "Research use only. Not a medical device; not for diagnosis or treatment."
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


def document(title: str, header: Html, sections: Mapping[str, Html]) -> str:
    """The whole text of a page, with our style and script in it.

    Its own policy forbids the browser to load anything, to send anything, and to run any other
    script than the one that sorts the table in the section "Cases".

    Args:
        title: of the browser's window.
        header: what stands above the links.
        sections: {name: content}.
    """
    files = resources.files("lagseg_jax.reports")
    style, script = (files.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "form-action 'none'; base-uri 'none'"
    )
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        raw("style", style),
    )
    links = [tag("a", name, href=f"#{name.lower()}") for name in sections]
    body = join(
        tag("header", header, tag("nav", links)),
        tag("main", [tag("section", part, id=name.lower()) for name, part in sections.items()]),
        tag("footer", f"{RESEARCH} Written by lagseg_jax from the files beside this one."),
        raw("script", script),
    )
    page = tag("html", tag("head", head), tag("body", body), lang="en")
    return f"<!doctype html>\n{page}\n"


def _hash(text: str) -> str:
    """What a policy calls the only style or script that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _escape(text: str) -> str:
    # What is no Unicode (the name of a file may be so) cannot be written in UTF-8.
    return escape(text.encode("utf-8", "replace").decode())
