"""From a config to a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from fastuda.data.classes import ClassSet, class_set
from fastuda.data.config import DataConfig, DatasetConfig
from fastuda.data.dataset import Dataset
from fastuda.data.layouts import find_layout


class Domains(NamedTuple):
    """The data sets of a task; ``validation`` is None where the task has none."""

    source: Dataset
    target: Dataset
    validation: Dataset | None


def build_dataset(config: DatasetConfig, classes: ClassSet, moves: Sequence[str] = ()) -> Dataset:
    """The data set that ``config`` describes, its labels mapped to ``classes``.

    Looks at directories and lists, and at the sizes of translated images, but decodes nothing. Raises ValueError, in
    one sentence that names the path, for a missing directory or file, an empty split, an unset environment variable or
    a translated image of another shape.

    moves: ``OLD=NEW`` directories (``DataConfig.root``), for a config that was written on another machine.
    """
    return find_layout(config.kind).dataset(config, classes, moves)


def build_domains(config: DataConfig) -> Domains:
    """Source, target and validation data set; the target is built without labels whatever its config says."""
    classes = class_set(config.classes)
    target = replace(config.target, labelled=False)
    chosen = (config.source, target, config.validation)
    return Domains(*(None if c.kind == "none" else build_dataset(c, classes, config.root) for c in chosen))
