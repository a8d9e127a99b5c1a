"""``fastuda data init``: look at folders, write a task file, say what was assumed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fastuda.data.errors import DataError
from fastuda.data.propose import Labelled, Survey
from fastuda.data.survey import Progress
from fastuda.data.task_text import task_text


def init(
    sources: Sequence[Path],
    output: Path,
    *,
    target: Path | None = None,
    validation: Path | None = None,
    say: Callable[[str], None] = print,
    progress: Progress = lambda what, done, total: None,
) -> None:
    """Write a task file for photos with labels and for the photos to adapt to; a line for each assumption.

    sources: folders of photos and of their labels. target: folder of the photos to adapt to; without it, two folders
    are given and the one with labels is the source. validation: folder of labelled photos of the target's kind.
    output: the file to write, ``*.yaml``; beside it lie split lists of data sets where not every photo has a label.

    Raises DataError, in one sentence, for folders that hold no images or no labels, for lossy labels, and where a file
    would be overwritten; nothing is written then.
    """
    if output.suffix not in (".yaml", ".yml"):
        raise DataError(f"the task file must be called *.yaml, not {output}")
    _refuse_existing(output)
    if not output.absolute().parent.is_dir():
        raise DataError(
            f"the directory {output.absolute().parent}, where {output.name} would be written, does not exist"
        )
    found = Survey(sources, target, validation, progress)
    files, lists = {}, {}
    for part in (found.source, found.validation):
        if isinstance(part, Labelled) and part.pairing.unpaired:
            path = output.with_name(f"{output.stem}_{part.name}.txt")
            _refuse_existing(path)
            lists[part.name] = str(path.absolute())
            files[path] = "".join(f"{stem}{part.image_suffix}\n" for stem in part.pairing.stems)
    files[output] = task_text(found, lists)
    for path, text in files.items():
        _write_new(path, text)
    for line in found.said:
        say(line)
    for path in files:
        say(f"wrote {path}")
    say(f"next: edit the classes in {output}, then fastuda data check {output} and fastuda train --task {output}")


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise DataError(f"{path} exists and is never overwritten: name another file with --output")


def _write_new(path: Path, text: str) -> None:
    """Write a file that must not exist, whole or not at all."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            try:
                os.link(temporary, path)  # unlike a rename, it fails where the file exists
            except FileExistsError:
                _refuse_existing(path)
        finally:
            temporary.unlink()
