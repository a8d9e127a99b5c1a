"""Looks through the data of a task before a run does: counts, unreadable files, ids seen, size mismatches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fastuda.data.build import build_dataset
from fastuda.data.classes import ClassSet, class_set
from fastuda.data.config import DataConfig, DatasetConfig, find_task, load_task
from fastuda.data.dataset import Dataset, FileDataset, Unlabelled
from fastuda.data.errors import DataError, SizeMismatch, UnknownId
from fastuda.data.strict import from_dict
from fastuda.data.translated import WithTranslated
from fastuda.labels import IGNORE

_SHOWN = 5  # messages of one kind


@dataclass
class Findings:
    """What was found in one data set."""

    images: int = 0  # looked at
    sizes: Counter = field(default_factory=Counter)  # (height, width) -> images
    ids: set[int] = field(default_factory=set)  # label ids as stored
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # by class index, 255 = ignored
    unreadable: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def unlabelled(self) -> bool:
        """Whether labels were read and every pixel of them is ignored: nothing can be learnt or scored from them."""
        return bool(self.pixels[IGNORE]) and not self.pixels[:IGNORE].any()

    @property
    def clean(self) -> bool:
        return not (self.unreadable or self.mismatches or self.unknown or self.unlabelled)


def data_config(name_or_path: str | Path, roots: Sequence[str] = ()) -> DataConfig:
    """The ``data`` section of a task's YAML file. Raises ValueError for whatever is wrong with it.

    roots: further entries ``OLD=NEW`` of its field ``root``.
    """
    path = find_task(name_or_path)
    content = load_task(path)
    if "data" not in content:
        raise DataError(f"{path} has no section 'data'")
    config = from_dict(DataConfig, content["data"], f"{path.name}: data")
    return replace(config, root=(*config.root, *roots))


def examine(dataset: Dataset, limit: int = 0) -> Findings:
    """Decode every image of a data set, and every label if it is labelled; with a limit, so many spread over it."""
    findings = Findings()
    n = len(dataset)
    chosen = range(n) if not 0 < limit < n else np.unique(np.linspace(0, n - 1, limit).round().astype(int)).tolist()
    for index in chosen:
        findings.images += 1
        try:
            findings.sizes[dataset.image(index).shape[:2]] += 1
            if dataset.labelled:
                findings.pixels += np.bincount(_label(dataset, index, findings).ravel(), minlength=256)
        except SizeMismatch as error:
            findings.mismatches.append(str(error))
        except UnknownId as error:
            findings.unknown.append(str(error))
        except (ValueError, OSError) as error:
            findings.unreadable.append(str(error))
    return findings


def check(config: DataConfig, limit: int = 0, say: Callable[[str], None] = print) -> bool:
    """Report on the data sets of a task; True when nothing is wrong. Target labels are never opened.

    Translated source images are a part of their own in the report; the labels, which they share, are read once.
    """
    classes = class_set(config.classes)
    target = replace(config.target, labelled=False)
    good = True
    for name, part in (("source", config.source), ("target", target), ("validation", config.validation)):
        if part.kind == "none":
            say(f"{name}: none, so nothing will be scored")
            continue
        try:
            dataset = build_dataset(part, classes, config.root)
        except (ValueError, OSError) as error:
            say(f"{name}: {error}")
            good = False
            continue
        for title, place, examined in _parts(name, part, dataset):
            findings = examine(examined, limit)
            for line in _report(f"{title}: {place}", examined, findings):
                say(line)
            good = good and findings.clean
    return good


def _parts(name: str, config: DatasetConfig, dataset: Dataset) -> Iterator[tuple[str, str, Dataset]]:
    """(title, place, data set) of each part of the report."""
    place = f"{config.kind} {config.root}".strip()
    if not isinstance(dataset, WithTranslated):
        yield name, place, dataset
        return
    yield name, place, dataset.originals
    yield f"{name}, translated", config.translated, Unlabelled(dataset.translated)


def _label(dataset: Dataset, index: int, findings: Findings) -> np.ndarray:
    if not isinstance(dataset, FileDataset):
        return dataset.label(index)
    ids = dataset.ids(index)
    findings.ids.update(np.unique(ids).tolist())
    return dataset.to_classes(index, ids)


def _report(title: str, dataset: Dataset, findings: Findings) -> Iterator[str]:
    labels = "labelled" if dataset.labelled else "labels not opened"
    looked = f", {findings.images} looked at" if findings.images < len(dataset) else ""
    yield f"{title}, {len(dataset)} images{looked}, {labels}"
    sizes = ", ".join(f"{w}x{h} ({count})" for (h, w), count in findings.sizes.most_common(_SHOWN))
    more = len(findings.sizes) - _SHOWN
    yield f"  sizes (width x height): {sizes or 'none'}" + (f" and {more} others" if more > 0 else "")
    if dataset.labelled:
        if findings.ids:
            yield f"  ids seen: {' '.join(map(str, sorted(findings.ids)))}"
        yield f"  classes: {_shares(dataset.classes, findings.pixels)}"
        if findings.unlabelled:
            yield "  every labelled pixel is ignored: the id table does not fit these labels"
    problems = (
        ("unreadable files", findings.unreadable),
        ("size mismatches", findings.mismatches),
        ("labels with unknown ids", findings.unknown),
    )
    yield "  " + ", ".join(f"{what}: {len(messages)}" for what, messages in problems)
    for _, messages in problems:
        for message in messages[:_SHOWN]:
            yield f"    {message}"
        if len(messages) > _SHOWN:
            yield f"    and {len(messages) - _SHOWN} more"


def _shares(classes: ClassSet, pixels: np.ndarray) -> str:
    total = max(int(pixels.sum()), 1)
    shares = [
        f"{name} {100 * count / total:.2f} %" if count else f"{name} never"
        for name, count in zip(classes.names, pixels, strict=False)
    ]
    return ", ".join([*shares, f"ignored {100 * pixels[IGNORE] / total:.2f} %"])
