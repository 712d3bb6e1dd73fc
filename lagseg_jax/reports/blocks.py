"""The small pieces of text that all pages are made of."""

from lagseg_jax.reports.html import Content, Html, join, tag


def note(*content: Content) -> Html:
    """A paragraph in small print."""
    return tag("p", *content, class_="small muted")


def missing(title: str, sentence: str) -> Html:
    """A section that has nothing to show."""
    return join(tag("h2", title), tag("p", sentence))


def facts(pairs: dict[str, str]) -> Html:
    """A list of names and what they are."""
    return tag("dl", [join(tag("dt", name), tag("dd", text)) for name, text in pairs.items()])


def count_of(count: int, what: str) -> str:
    """Number and noun: 1 case, 2 cases, 2 processes."""
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"
