"""Builds HTML and SVG in which text from outside is always escaped."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any
from urllib.parse import quote

FRAMES = "frame-src file: 'self'; "  # from the disk, `self` alone may be nothing
RESEARCH = "Research use only. Not a medical device; not for diagnosis or treatment."
VOID = ("meta", "img", "input")  # elements without an end
URLS = ("href", "src")  # the attributes that a browser may follow
# What they may lead to: a place or a picture in the page, a file of ours beside it.
_PLACE = re.compile(
    r"#|data:image/png;base64,|\./(?!\.)([\w.~%-]+/)?(?!\.)[\w.~%-]+\.html(#|$)", re.A
)
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
        if key in URLS and not _PLACE.match(str(value)):
            raise ValueError(
                f"{key} is {value!r}, expected a place or a picture in the page, or one beside it"
            )
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


def data(name: str, content: Any) -> Html:
    """JSON in the page, which its script finds under the id `name`; no browser runs it."""
    text = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{_escape(name)}">{text}</script>')


def beside(*path: str, place: str = "") -> str:
    """The address of a page in the same folder or in one below it: `beside("review", "1.html")`."""
    # Dots at the beginning lead elsewhere, or hide a file.
    parts = [
        re.sub(r"^\.", "%2E", quote(part.encode("utf-8", "surrogateescape"), safe=""))
        for part in path
    ]
    return "./" + "/".join(parts) + (f"#{quote(place, safe='', errors='replace')}" if place else "")


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
    links = [tag("a", name, href=f"#{name.lower()}") for name in sections]
    body = join(
        tag("header", header, tag("nav", links)),
        tag("main", [tag("section", part, id=name.lower()) for name, part in sections.items()]),
        tag("footer", f"{RESEARCH} Written by lagseg_jax from the files beside this one."),
    )
    return self_contained(title, body, ["report.css"], ["report.js"])


def self_contained(
    title: str, body: Html, styles: Sequence[str], scripts: Sequence[str], frames: bool = False
) -> str:
    """A page of one file, whose own policy forbids the browser to load or send anything.

    Args:
        title: of the browser's window.
        body: what stands in it.
        styles: files of this folder, such as "report.css".
        scripts: the same, such as "report.js"; they run after the body is there, and nothing else.
        frames: whether the page shows others of its folder in itself.
    """
    files = resources.files("lagseg_jax.reports")
    style, script = (
        "".join(files.joinpath(name).read_text("utf-8") for name in names)
        for names in (styles, scripts)
    )
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        f"{FRAMES if frames else ''}form-action 'none'; base-uri 'none'"
    )
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        raw("style", style),
    )
    page = tag("html", tag("head", head), tag("body", body, raw("script", script)), lang="en")
    return f"<!doctype html>\n{page}\n"


def _hash(text: str) -> str:
    """What a policy calls the only style or script that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _escape(text: str) -> str:
    # What is no Unicode (the name of a file may be so) cannot be written in UTF-8.
    return escape(text.encode("utf-8", "replace").decode())
