"""Elements of HTML that are XML as well, with every text escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

# Characters that neither HTML nor XML may hold: a file name or a class may.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """A string that is HTML already."""


def text(value: object) -> Html:
    """A value as HTML: escaped, unless it is ``Html``; characters that a page may not hold become U+FFFD."""
    return value if isinstance(value, Html) else Html(escape(_FORBIDDEN.sub("\ufffd", str(value))))


def join(parts: Iterable[object]) -> Html:
    return Html("".join(map(text, parts)))


def tag(name: str, /, *content: object, **attributes: object) -> Html:
    """``<name ...>content</name>``; an attribute's underscores become hyphens, a trailing one is dropped."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{join(content)}</{name}>") if content else Html(f"<{name}{given} />")


def table(header: Sequence[object], rows: Iterable[Sequence[object]], **attributes: object) -> Html:
    """A table whose first column names its rows, in a box that scrolls by itself on a narrow screen."""
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(cell if _is_cell(cell) else tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    whole = tag("table", tag("thead", head), tag("tbody", *body) if body else Html("<tbody></tbody>"), **attributes)
    return tag("div", whole, class_="scroll")


def _is_cell(value: object) -> bool:
    return isinstance(value, Html) and value.startswith("<td")


def section(title: str, *content: object) -> Html:
    """A section with a heading; nothing where there is no content."""
    content = tuple(part for part in content if part)
    return tag("section", tag("h2", title), *content) if content else Html("")
