"""What every page must be: well-formed, without scripts, and without anything to load."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

VOID = {"meta", "img", "line", "rect", "polyline", "circle"}


class Parser(HTMLParser):
    """Notes what a browser would load or run, and checks that elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, name: str, attributes: list) -> None:
        self.look(name, dict(attributes))
        self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list) -> None:
        self.look(name, dict(attributes))
        if name not in VOID:
            self.faults.append(f"<{name} /> would stay open in a browser")

    def handle_endtag(self, name: str) -> None:
        if not self.open or self.open.pop() != name:
            self.faults.append(f"</{name}> closes nothing")

    def look(self, name: str, attributes: dict) -> None:
        if name in ("script", "link", "iframe", "object", "embed", "base", "form"):
            self.faults.append(f"there is a <{name}>")
        for key, value in attributes.items():
            loads = key in ("src", "href", "srcset", "action", "xlink:href", "poster", "background", "data")
            if key.startswith("on") or (loads and not value.startswith("data:image/")):
                self.faults.append(f"<{name} {key}={value[:40]!r}>")
            if key == "style" and re.search(r"url\(|expression|@import", value):
                self.faults.append(f"<{name} style={value!r}>")


def checked(page: str) -> ElementTree.Element:
    """The root of a page; AssertionError where it is not well-formed, or would load or run anything."""
    parser = Parser()
    parser.feed(page)
    parser.close()
    assert parser.faults == [] and parser.open == []
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style and "http" not in style
    declaration, _, rest = page.partition("\n")
    assert declaration == "<!DOCTYPE html>"
    return ElementTree.fromstring(rest)


def words(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def sections(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {section.find("h2").text: section for section in root.iter("section")}


def cells(element: ElementTree.Element) -> list[list[str]]:
    return [[words(cell) for cell in row] for row in element.iter("tr")]
