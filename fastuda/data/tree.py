"""The image files of folders that nobody described, and the photos with labels among them."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

from fastuda.data.errors import DataError
from fastuda.data.files import read_label_ids
from fastuda.data.label_names import known_names
from fastuda.data.layouts import LAYOUTS, Layout
from fastuda.data.survey import FLAT, Content, Pairing, content, image_names, pairings, what_is_read

MOST_TOPS = 12  # folders that are looked into one by one; more are the parts of one collection
_HELD_OUT = re.compile(r"(^|[^a-z])(val|valid|validation|test)($|[^a-z])", re.IGNORECASE)


class Tree:
    """The image files in some folders and below them, and how they pair.

    root: the folder that all of them lie in. names: the files by their paths below it, sorted.
    Raises DataError for a folder that does not exist, cannot be read or holds no image.
    """

    def __init__(self, *folders: Path) -> None:
        self.folders = folders
        self.root = Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
        self.names = image_names(self.root, folders)

    @cached_property
    def pairings(self) -> list[Pairing]:
        """Photos with labels, first those that a person would take; [] where there are none."""
        looked = [found for found in self._looked_at if found[2].few]
        # Photos of few colours, as simple renderings have, count only where there are no others: else one kind of
        # labels would be the photos of another.
        good = [pairing for pairing, photos, _ in looked if not photos.few]
        good = good or [pairing for pairing, photos, labels in looked if photos.values > labels.values]
        most = max((len(pairing.stems) for pairing in good), default=0)
        return sorted(good, key=lambda pairing: (10 * len(pairing.stems) < 9 * most, *self._rank(pairing)))

    @property
    def best(self) -> Pairing | None:
        return self.pairings[0] if self.pairings else None

    def held_out(self) -> Pairing | None:
        """Labelled photos of another folder than the best ones, which its name says are to score on."""
        others = (pairing for pairing in self.pairings if self.best and pairing.images != self.best.images)
        return next((pairing for pairing in others if _HELD_OUT.search(pairing.images)), None)

    def photos(self) -> tuple[str, str]:
        """(folder below the root, end of the names) of the photos, labelled or not.

        Raises DataError where folders of photos and folders of something else lie side by side.
        """
        if self.best:
            return self.best.images, self.best.image_suffix
        tops: dict[str, list[str]] = {}
        for name in self.names:
            tops.setdefault(name.split(os.sep)[0] if os.sep in name else "", []).append(name)
        if len(tops) > MOST_TOPS:
            return "", ""
        photos = [top for top, below in tops.items() if not content(self.root, below).few]
        if len(photos) == len(tops) or not photos:
            return "", ""
        if len(photos) > 1 or not photos[0]:
            where = " and ".join(top or "itself" for top in photos)
            raise DataError(
                f"{self.root} holds photos in {where} and other pictures beside them: name one folder of photos"
            )
        return photos[0], ""

    def below(self, folder: str, suffix: str) -> list[str]:
        """The files below a folder whose names end in ``suffix``, in whatever case."""
        beginning = folder + os.sep if folder else ""
        return [name for name in self.names if name.startswith(beginning) and name.lower().endswith(suffix.lower())]

    def like_layout(self) -> str:
        """The kind of a layout of this package that has such folders; "" if none has."""
        for kind, layout in LAYOUTS.items():
            # A layout with the most usual names of folders says nothing.
            if layout.in_files and layout.image_folder != Layout.image_folder:
                folders = [folder.split("{")[0] for folder in (layout.image_folder, layout.label_folder)]
                if all(folder and (self.root / folder).is_dir() for folder in folders):
                    return kind
        return ""

    def why_unlabelled(self) -> DataError:
        """Why there are no photos with labels."""
        for pairing, photos, labels in self._looked_at:
            if labels.lossy and labels.flat >= FLAT and labels.flat > photos.flat:
                try:
                    read_label_ids(self.root / pairing.label(pairing.stems[0]))
                except DataError as error:
                    return error
        where = " and ".join(str(folder) for folder in self.folders)
        for pairing, _, labels in self._looked_at:
            return DataError(
                f"no labels were found in {where}: the names of {pattern(pairing.images, pairing.image_suffix)} and "
                f"{pattern(pairing.labels, pairing.label_suffix)} fit, but {self.root / labels.example} has "
                f"{labels.values} values, as photos have"
            )
        return DataError(
            f"no labels were found in {where}: a label file needs its photo's name, such as images/0001.jpg and "
            "labels/0001.png"
        )

    @cached_property
    def _looked_at(self) -> list[tuple[Pairing, Content, Content]]:
        """Each pairing with what its two sides hold; those whose files cannot be read are left out."""
        found: list[tuple[Pairing, Content, Content]] = []
        contents: dict[tuple[str, str], Content | None] = {}
        for pairing in pairings(self.names):
            sides = []
            for folder, suffix, name in (
                (pairing.images, pairing.image_suffix, pairing.image),
                (pairing.labels, pairing.label_suffix, pairing.label),
            ):
                if (folder, suffix) not in contents:
                    try:
                        contents[folder, suffix] = content(self.root, [name(stem) for stem in pairing.stems])
                    except DataError:
                        contents[folder, suffix] = None
                sides.append(contents[folder, suffix])
            photos, labels = sides
            if photos is not None and labels is not None:
                found.append((pairing, photos, labels))
        return found

    def _rank(self, pairing: Pairing) -> tuple:
        """Folders to train on first, then labels of known ids, then single ids before colours, then short names."""
        read = what_is_read(self.root, [pairing.label(stem) for stem in pairing.stems])
        suffix = pairing.label_suffix.lower()
        unnamed = not known_names(read, suffix)[0]
        finer = "labelids" in suffix
        held_out = bool(_HELD_OUT.search(pairing.images))
        return held_out, unnamed, finer, read == "colour", "instance" in suffix, len(suffix), pairing.labels, suffix


def pattern(folder: str, suffix: str) -> str:
    """How such files are written for people: ``images/*.png``."""
    return os.path.join(folder, f"*{suffix}")
