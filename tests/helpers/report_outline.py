"""What a page of a report consists of, and a manifest for it."""

import base64
from html.parser import HTMLParser

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M/wHwAEBgIApD5fRAAAAABJRU5ErkJggg=="
)


class Outline(HTMLParser):
    """Raises unless every element is closed in order; collects elements, texts and links."""

    def __init__(self, page):
        super().__init__()
        self.open, self.texts, self.links, self.elements, self.policy = [], [], [], [], ""
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.elements.append((tag, [name for name, _ in attributes]))
        if ("http-equiv", "Content-Security-Policy") in attributes:
            self.policy = dict(attributes)["content"]
        self.links += [v for k, v in attributes if k in ("src", "href", "data", "srcset", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, text):
        self.texts.append(text)


MANIFEST = {
    **{"date": "2026-01-02", "command": "python", "git": None, "seed": 0, "checkpoint_step": 60},
    "encoder": {"variant": "base", "weights": "w", "sha256": "f", "adapted": "LoRA"},
    "dataset": {"root": "data", "cases": 5, "sha256": "f"},
    "devices": {"count": 1, "kind": "cpu", "platform": "cpu", "processes": 1},
    **{"versions": {"jax": "1"}, "config": {"fusion": {"learned": True}, "data": {"root": "x"}}},
}
