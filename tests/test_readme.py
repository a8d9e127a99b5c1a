"""The examples in docs run as printed: each Python block below a line ``<!-- example: NAME -->``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastuda

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"^<!-- example: ([\w-]+) -->$")


def examples(text: str) -> dict[str, str]:
    """{name: code} of the marked blocks; ValueError for a mark without a closed Python block right below it."""
    lines, found = text.splitlines(), {}
    for number, line in enumerate(lines):
        mark = MARK.match(line)
        if mark is None:
            continue
        block = lines[number + 1 :]
        if not block or block[0] != "```python" or "```" not in block[1:]:
            raise ValueError(f"line {number + 1}: no fenced python block below the mark of example {mark[1]}")
        if mark[1] in found:
            raise ValueError(f"line {number + 1}: there are two examples called {mark[1]}")
        found[mark[1]] = "\n".join(block[1 : 1 + block[1:].index("```")]) + "\n"
    return found


def run(code: str, directory: Path) -> subprocess.CompletedProcess:
    """The code as a file of its own, in an empty directory, with nothing but what an installed fastuda gives it."""
    (directory / "example.py").write_text(code)
    package = str(Path(fastuda.__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-W", "error", "example.py"]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120)


PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
EXAMPLES = {f"{page.stem}: {name}": code for page in PAGES for name, code in examples(page.read_text()).items()}
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_as_printed(name, tmp_path):
    done = run(EXAMPLES[name], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_readme_shows_lines_of_the_example_that_runs():
    (shown,) = re.findall(r"<!-- excerpt: operators -->\n```python\n(.*?)```\n", README, re.DOTALL)
    lines = [line.strip() for line in EXAMPLES["operators: operators"].splitlines()]
    assert len(shown.splitlines()) == 3
    assert [line for line in lines if line in shown.splitlines()] == shown.splitlines()


def test_operators_are_shown_in_three_lines_of_a_training_loop():
    code = EXAMPLES["operators: operators"]
    used = [line for line in code.splitlines() if re.search(r"class_moments\(|contrastive_bound\(|\bm2 /", line)]
    assert len(used) == 3 and "class_moments(" in used[0] and "contrastive_bound(" in used[-1]
    assert re.search(r"for .*:\n(?:.*\n)*.*contrastive_bound\((?:.*\n)*.*backward\(\)\n(?:.*\n)*.*\.step\(\)", code)
    assert len(code.splitlines()) <= 25


TWO = """text
<!-- example: one -->
```python
x = 1
```
```python
unmarked = undefined
```
 <!-- example: indented, so quoted -->
<!-- example: two -->
```python
assert x == 1
```
"""


def test_extraction_and_isolation(tmp_path):
    found = examples(TWO)
    assert found == {"one": "x = 1\n", "two": "assert x == 1\n"}
    assert run(found["one"], tmp_path).returncode == 0
    assert "NameError" in run(found["two"], tmp_path).stderr  # nothing is carried from one block to the next


@pytest.mark.parametrize(
    "text",
    [
        "<!-- example: a -->\n\n```python\nx = 1\n```\n",
        "<!-- example: a -->\n```bash\nls\n```\n",
        "<!-- example: a -->\n```python\nx = 1\n",
        "<!-- example: a -->",
        "<!-- example: a -->\n```python\n```\n" * 2,
    ],
)
def test_a_mark_without_its_block_is_an_error(text):
    with pytest.raises(ValueError, match="example"):
        examples(text)
