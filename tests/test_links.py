"""README, CONTRIBUTING and the pages of docs: their links lead somewhere, and the files they name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
# A path of the repository in backticks, without placeholders and patterns.
NAMED = re.compile(r"`((?:fastuda|kernels|csrc|tests|benchmarks|docs)/[\w./+-]*\w/?)(?:::\w+)?`")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", FENCED.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return names


def broken(page: Path, root: Path) -> list[str]:
    """What a page links to or names that is not there; addresses outside the repository are not looked up."""
    text, where = page.read_text(), page.relative_to(root)
    found = []
    for target in LINK.findall(FENCED.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        if not path.exists():
            found.append(f"{where}: there is no {target}")
        elif not path.resolve().is_relative_to(root.resolve()):
            found.append(f"{where}: {target} is outside the repository")
        elif anchor and anchor not in anchors(path.read_text()):
            found.append(f"{where}: {target} names no heading")
    return found + [f"{where}: there is no file {name}" for name in NAMED.findall(text) if not (root / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    faults = broken(page, ROOT)
    if page.name == "CHANGELOG.md":  # it names files as they were then
        faults = [fault for fault in faults if "there is no file" not in fault]
    assert faults == []


def test_every_page_of_docs_can_be_reached_from_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        targets = (target.partition("#")[0] for target in LINK.findall(page.read_text()))
        waiting += [(page.parent / name).resolve() for name in targets if name.endswith(".md") and ":" not in name]
    assert set(ROOT.glob("docs/*.md")) <= seen


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_anchors_are_those_of_github():
    text = "# A title: two `words`\n```\n# no heading\n```\n## What a *row* says, and\n## Twice\n## Twice\n"
    assert anchors(text) == {"a-title-two-words", "what-a-row-says-and", "twice", "twice-1"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a](lost.md)", "there is no lost.md"),
        ("![a](docs/lost.png)", "there is no docs/lost.png"),
        ("[a](docs/page.md#lost)", "docs/page.md#lost names no heading"),
        ("# Title\n[a](#other)", "#other names no heading"),
        ("[a](../outside.md)", "outside the repository"),
        ("see `fastuda/lost.py`", "there is no file fastuda/lost.py"),
    ],
)
def test_a_broken_link_is_found(tmp_path, text, fault):
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (tmp_path / "outside.md").write_text("")
    (root / "docs/page.md").write_text("# Heading\n")
    (root / "README.md").write_text(f"[b](docs/page.md#heading) <https://a.b> [c](https://d.e/f.md)\n{text}\n")
    (found,) = broken(root / "README.md", root)
    assert fault in found
