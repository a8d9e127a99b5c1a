"""Planted faults ("mutants"): one replacement in a copy of the sources, which the tests of a kernel must notice.

A fault is placed by a pattern that survives renaming and reformatting:

    $name     stands for any identifier, and for the same one wherever it occurs in the pattern and the replacement
    spaces    stand for any white space, in C++ line ends too; in Python a line end and its indentation must be the same

Everything else is literal. A pattern must match at exactly one place of its file.
"""

from __future__ import annotations

import multiprocessing
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TOKENS = re.compile(r"\$(?P<name>[A-Za-z_]\w*)|(?P<space>\s+)|(?P<word>\w+)|(?P<sign>.)")


@dataclass(frozen=True)
class Fault:
    """One replacement in one file, relative to the folder of the room's sources.

    check: which of the room's checks must notice it: the operator, one of its directions, or a Triton kernel.
    quick: also planted in CI; at most one of an operator in each room.
    """

    check: str
    name: str
    file: str
    search: str
    replace: str
    quick: bool = False

    @property
    def title(self) -> str:
        return f"{self.check}: {self.name}"


def pattern(search: str, exact_lines: bool) -> re.Pattern[str]:
    """The regular expression of a fault's ``search``; ``exact_lines``: line ends are literal, as in Python."""
    parts, names = [], set()
    if not exact_lines:  # else what is removed would take the end of the line before it along
        search = search.strip()
    for token in TOKENS.finditer(search):
        name, space, word, sign = token.group("name", "space", "word", "sign")
        if name:
            parts.append(rf"(?P={name})(?!\w)" if name in names else rf"(?<!\w)(?P<{name}>[A-Za-z_]\w*)(?!\w)")
            names.add(name)
        elif space and exact_lines and ("\n" in space or token.start() == 0):
            parts.append(re.escape(space))
        elif space:
            between = search[token.start() - 1 : token.start()] + search[token.end() : token.end() + 1]
            parts.append(r"\s+" if re.fullmatch(r"\w[\w$]", between) else r"\s*")
        else:
            parts.append(re.escape(word or sign))
    return re.compile("".join(parts))


def planted(fault: Fault, text: str) -> str:
    """``text`` of the fault's file with the fault in it; ValueError unless its pattern matches at exactly one place."""
    places = list(pattern(fault.search, fault.file.endswith(".py")).finditer(text))
    if len(places) != 1:
        raise ValueError(f"{fault.title}: its pattern matches at {len(places)} places of {fault.file}, not at one")
    (place,) = places
    replace = fault.replace if fault.file.endswith(".py") else fault.replace.strip()
    replacement = re.sub(r"\$([A-Za-z_]\w*)", lambda name: place[name[1]], replace)
    return text[: place.start()] + replacement + text[place.end() :]


def mutate(fault: Fault, root: Path, folder: Path) -> Path:
    """A copy ``folder/<name of root>`` of the sources with the fault in it."""
    sources = Path(folder) / Path(root).name
    shutil.copytree(root, sources, ignore=shutil.ignore_patterns("__pycache__"))
    path = sources / fault.file
    path.write_text(planted(fault, path.read_text()))
    return sources


def isolated(work: Callable[..., str], *arguments, timeout: float, method: str = "fork") -> str:
    """``work(*arguments)`` in a child process: its text, or that it crashed, raised or ran longer than ``timeout``.

    ``method`` is "fork" (cheap; ``work`` must not need threads the parent started) or "spawn" (``work`` importable).
    """
    context = multiprocessing.get_context(method)
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(send, work, arguments))
    child.start()
    send.close()
    try:
        # The text is awaited, not the end of the process: a child that was hurt may hang on its way out.
        if not receive.poll(timeout):
            return "does not end"
        return receive.recv()
    except EOFError:
        child.join(timeout)
        return f"crash: exit status {child.exitcode}"
    finally:
        receive.close()
        if child.is_alive():
            child.kill()
        child.join()


def _answer(send, work, arguments) -> None:
    try:
        send.send(work(*arguments))
    except BaseException as error:
        send.send(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
