"""What a data layout is: where the files of a data set lie, and what its label files hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastuda.data.classes import ClassSet
from fastuda.data.dataset import Dataset, Entry, FileDataset
from fastuda.data.errors import DataError, UnreadableFile
from fastuda.data.listing import existing_directory, image_files, listed_images, without_suffix
from fastuda.data.roots import expanded, moved
from fastuda.data.tables import CITYSCAPES, IdTable, id_table, own_table
from fastuda.data.translated import WithTranslated, find_translated

if TYPE_CHECKING:  # config.py imports the layouts
    from fastuda.data.config import DatasetConfig

Size = tuple[int, int]


class Layout:
    """Every fact about one kind of data set. docs/extending.md shows one that lives outside this package.

    A data set of a directory of images and a directory of labels states its attributes only; one with other rules
    overrides ``entries``. Nothing here may open, list or look for label files of an unlabelled data set.
    """

    kind = ""
    """What ``kind`` in a task file says; outside this package that is ``package.module:Class`` instead."""

    image_folder = "images"
    """Directory below the root that all images lie in; {split} and {city} stand for those fields of the config."""

    label_folder = "labels"
    """The same for label files; the label of image folder/STEM + image suffix is label folder/STEM + label suffix."""

    image_suffix = ""
    """End of each image's file name, with or without extension; "" is any image file."""

    label_suffix = ".png"
    sub_folders = False
    """Whether images also lie in directories below the image folder."""

    ids: IdTable = CITYSCAPES
    """From label ids to Cityscapes train ids, where the config names no other table."""

    image_size: Size | None = None
    """(height, width) in pixels of all images; None where they differ."""

    label_size: Size | None = None
    """(height, width) of the labels where it is not the images'; they then need only the same aspect ratio."""

    in_files = True
    """Whether the images are files, of which there can be translated copies."""

    def check(self, config: DatasetConfig) -> None:
        """Raises DataError for a field of the config that this kind needs and that is missing or wrong."""
        if "{split}" in self.image_folder and not config.split:
            raise DataError(f"a {config.kind} data set needs the field 'split', such as train or val")

    def image_directory(self, config: DatasetConfig, root: Path) -> Path:
        """The directory below which all images lie, whether it exists or not."""
        return root / _filled(self.image_folder, config)

    def label_directory(self, config: DatasetConfig, root: Path) -> Path:
        return root / _filled(self.label_folder, config)

    def suffixes(self, config: DatasetConfig) -> tuple[str, str]:
        """Ends of the file names of images and of labels."""
        return self.image_suffix, self.label_suffix

    def entries(self, config: DatasetConfig, root: Path) -> list[Entry]:
        """Each image with its name and the path of its label, which need not exist where the config is unlabelled.

        ``config.split`` names a list file of stems or image files below the root, where it is no part of the folders.
        Raises DataError for a directory or list that cannot be read.
        """
        images, labels = self.image_directory(config, root), self.label_directory(config, root)
        image_suffix, label_suffix = self.suffixes(config)
        existing_directory(images)
        if config.split and "{split}" not in self.image_folder:
            named: Iterable[tuple[str, Path]] = listed_images(root / config.split, images, image_suffix)
        else:
            paths = image_files(images, image_suffix, self.sub_folders)
            named = ((path.relative_to(images).as_posix(), path) for path in paths)
        stems = ((without_suffix(name, image_suffix), path) for name, path in named)
        return [Entry(stem, path, labels / (stem + label_suffix)) for stem, path in stems]

    def dataset(self, config: DatasetConfig, classes: ClassSet, moves: Sequence[str] = ()) -> Dataset:
        """The data set that ``config`` describes, as ``fastuda.data.build_dataset`` states it."""
        self.check(config)
        root = data_root(config, moves)
        entries = self.entries(config, root)
        if not entries:
            raise DataError(f"the directory {self.image_directory(config, root)} holds no images of the data set")
        if config.labelled:
            _check_labels(entries)
        else:
            entries = [entry._replace(label=None) for entry in entries]
        same_size = self.label_size is None
        dataset = FileDataset(classes, entries, self._table(config, classes, root), config.labelled, same_size)
        if not config.translated:
            return dataset
        copies = existing_directory(expanded(moved(config.translated, moves)))
        return WithTranslated(dataset, find_translated(dataset, self.image_directory(config, root), copies))

    def _table(self, config: DatasetConfig, classes: ClassSet, root: Path) -> IdTable:
        if classes.train_ids:
            return id_table(config.ids, root) if config.ids else self.ids
        return own_table(config.ids, classes) if config.labelled else IdTable("none", {})


def data_root(config: DatasetConfig, moves: Sequence[str] = ()) -> Path:
    """The data set's directory on this machine, with ``$VARIABLES`` and ``~`` expanded.

    moves: ``OLD=NEW`` directories, as ``fastuda.data.roots.moved`` applies them.
    Raises DataError for an empty root, an unset variable or a directory that does not exist.
    """
    if not config.root:
        raise DataError(f"a {config.kind} data set needs the field 'root', the directory where its files lie")
    root = expanded(moved(config.root, moves))
    if not root.is_dir():
        raise DataError(
            f"the data directory {root} does not exist (--data.root OLD=NEW moves the roots of a task or run)"
        )
    return root


def _filled(folder: str, config: DatasetConfig) -> str:
    return folder.replace("{split}", config.split).replace("{city}", config.city)


def _check_labels(entries: list[Entry]) -> None:
    missing = [entry.label for entry in entries if entry.label is None or not entry.label.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise UnreadableFile(f"the label {missing[0]} does not exist{more}")
