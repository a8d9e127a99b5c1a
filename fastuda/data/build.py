"""From a config to a data set."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fastuda.data.classes import ClassSet, class_set
from fastuda.data.config import DataConfig, DatasetConfig
from fastuda.data.dataset import Dataset, FileDataset, Unlabelled
from fastuda.data.errors import DataError
from fastuda.data.layouts import LAYOUTS, existing_directory, image_directory
from fastuda.data.streets import Streets
from fastuda.data.tables import IdTable, id_table, own_table
from fastuda.data.translated import WithTranslated, find_translated

_IDS = {"synthia": "synthia", "folder": "trainids"}


class Domains(NamedTuple):
    """The data sets of a task; ``validation`` is None where the task has none."""

    source: Dataset
    target: Dataset
    validation: Dataset | None


def build_dataset(config: DatasetConfig, classes: ClassSet) -> Dataset:
    """The data set that ``config`` describes, its labels mapped to ``classes``.

    Looks at directories and lists, and at the sizes of translated images, but decodes nothing. Raises ValueError, in
    one sentence that names the path, for a missing directory or file, an empty split, an unset environment variable or
    a translated image of another shape.
    """
    if config.kind == "streets":
        return _streets(config, classes)
    if config.kind not in LAYOUTS:
        raise DataError(f"there is no data set kind '{config.kind}'; there are streets, {', '.join(LAYOUTS)}")
    root = expand_root(config)
    entries = LAYOUTS[config.kind](config, root)
    if classes.train_ids:
        table = id_table(config.ids or _IDS.get(config.kind, "cityscapes"), root)
    else:
        table = own_table(config.ids, classes) if config.labelled else IdTable("none", {})
    dataset = FileDataset(classes, entries, table, config.labelled, same_size=config.kind != "synscapes")
    if not config.translated:
        return dataset
    copies = existing_directory(_expanded(config.translated))
    return WithTranslated(dataset, find_translated(dataset, image_directory(config, root), copies))


def build_domains(config: DataConfig) -> Domains:
    """Source, target and validation data set; the target is built without labels whatever its config says."""
    classes = class_set(config.classes)
    target = replace(config.target, labelled=False)
    chosen = (config.source, target, config.validation)
    return Domains(*(None if c.kind == "none" else build_dataset(c, classes) for c in chosen))


def expand_root(config: DatasetConfig) -> Path:
    """The data set's directory with ``$VARIABLES`` and ``~`` expanded.

    Raises ValueError for an empty root, an unset variable or a directory that does not exist.
    """
    if not config.root:
        raise DataError(f"a {config.kind} data set needs the field 'root', the directory where its files lie")
    root = _expanded(config.root)
    if not root.is_dir():
        raise DataError(f"the data directory {root} does not exist")
    return root


def _expanded(directory: str) -> Path:
    """The directory as it is written where it exists, else with ``~`` and ``$VARIABLES`` expanded."""
    if os.path.isdir(directory):
        return Path(directory)

    def value(found: re.Match) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise DataError(f"the environment variable {name} is not set, which the data directory '{directory}' needs")
        return os.environ[name]

    return Path(os.path.expanduser(re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, directory)))


def _streets(config: DatasetConfig, classes: ClassSet) -> Dataset:
    if not classes.train_ids:
        raise DataError("streets draws the classes of Cityscapes: name one of the built-in class sets for it")
    streets = Streets(
        classes,
        look=config.look,
        split=config.split,
        count=config.count,
        seed=config.seed,
        size=config.size,
    )
    return streets if config.labelled else Unlabelled(streets)
