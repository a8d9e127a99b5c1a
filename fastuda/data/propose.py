"""A task file for folders that nobody described: what ``fastuda data init`` writes, and what it assumed.

fastuda/data/survey.py looks at the files; here is decided what follows from them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from fastuda.data.errors import DataError
from fastuda.data.files import IMAGE_SUFFIXES, read_label_ids
from fastuda.data.label_names import known_names
from fastuda.data.listing import walk_files
from fastuda.data.survey import (
    FLAT,
    Content,
    Ids,
    Pairing,
    Progress,
    content,
    count_ids,
    count_sizes,
    image_names,
    pairings,
    what_is_read,
)
from fastuda.data.video import VIDEO_SUFFIXES, Film, find_frames

EVERY = 1.0  # seconds between two frames of a film
BLACK = 0  # as an id made of a colour: what is not labelled, in most data sets of coloured labels
MOST_TOPS = 12  # folders that are looked into one by one; more are the parts of one collection
SHORT_SIDE = 180  # pixels that the shorter side of an image gets: the packaged schedule and its crops are made for it
Names = dict[int, str]


@dataclass
class Photos:
    """The photos of one data set of a task, or the frames of films. size: (height, width) in pixels to resize to."""

    name: str
    root: Path
    images: str
    image_suffix: str
    count: int
    size: tuple[int, int]

    kind: ClassVar[str] = "folder"


class Films(Photos):
    """Frames of films."""

    kind = "video"


@dataclass
class Labelled(Photos):
    """Photos with labels.

    names: of the ids that are classes. void: ids that are none. convention: whose names they are; "" is nobody's.
    """

    pairing: Pairing
    ids: Ids
    names: Names
    void: set[int]
    convention: str

    @property
    def complete(self) -> bool:
        """Whether every label file was read, so that no other id can turn up in training."""
        return self.ids.looked == len(self.pairing.stems)


class Survey:
    """The parts of a task, and in ``said`` one line for everything that was assumed."""

    def __init__(
        self, sources: Sequence[Path], target: Path | None, validation: Path | None, progress: Progress
    ) -> None:
        self.said: list[str] = []
        self._progress = progress
        if target is None:
            sources, target = self._without_target(sources)
        self.source = self._labelled("source", sources)
        self.target = self._photos(target)
        self.validation = self._validation(target, validation)

    def _without_target(self, folders: Sequence[Path]) -> tuple[Sequence[Path], Path]:
        """Of two folders the one with labels is the source; where both have labels, the first."""
        if len(folders) != 2:
            raise DataError("which photos to adapt to is not said: name their folder with --target DIR")
        having = [folder for folder in folders if _choose(*_tree(folder))]
        if not having:
            raise DataError(
                f"neither {folders[0]} nor {folders[1]} holds photos with labels: where these are the photos and the "
                "labels of the source, name the photos to adapt to with --target DIR"
            )
        source = having[0]
        target = folders[1] if source == folders[0] else folders[0]
        self.said.append(f"{source} is the source, since it holds labels, and {target} the target")
        return [source], target

    def _labelled(self, name: str, folders: Sequence[Path]) -> Labelled:
        """Photos with labels. Raises DataError, with a reason, where the folders hold none."""
        root, names = _tree(*folders)
        found = _choose(root, names)
        if found is None:
            raise _no_labels(root, names, folders)
        pairing, others = found
        part = self._part(name, root, pairing)
        for other in others:
            self.said.append(f"{name}: not taken: {len(other.stems)} labels {other.labels}/*{other.label_suffix}")
        self._say_ids(part)
        return part

    def _part(self, name: str, root: Path, pairing: Pairing) -> Labelled:
        sizes = count_sizes(root, [pairing.image(stem) for stem in pairing.stems], self._progress)
        self.said.append(
            f"{name}: {len(pairing.stems)} photos {_pattern(pairing.images, pairing.image_suffix)} with labels "
            f"{_pattern(pairing.labels, pairing.label_suffix)} below {root}"
        )
        if pairing.unpaired:
            self.said.append(f"{name}: {len(pairing.unpaired)} images without a label are left out by a split list")
        self._say_sizes(name, sizes)
        ids = count_ids(root, pairing, self._progress)
        convention, known, void = known_names(ids.read, pairing.label_suffix)
        if ids.read == "colour" and len(ids.pixels) > 1:
            void = {BLACK}
        classes = [label_id for label_id in sorted(ids.pixels) if label_id not in void]
        if not classes:
            raise DataError(f"the labels {root / pairing.labels} hold no class: every pixel looked at is ignored")
        numbers = range(len(classes)) if ids.read == "colour" else classes
        names = {i: known.get(i, f"class_{number}") for i, number in zip(classes, numbers, strict=True)}
        return Labelled(
            name, root, pairing.images, pairing.image_suffix, len(pairing.stems), _resized(sizes),
            pairing, ids, names, set(ids.pixels) - set(classes), convention,
        )  # fmt: skip

    def _photos(self, folder: Path) -> Photos:
        """The photos to adapt to, or the frames of films where there are no photos."""
        if films := _films(folder):
            sizes: Counter = Counter()
            for film in films:
                sizes[film.size] += len(film.stamps)
            self.said.append(f"target: {sizes.total()} frames of films {folder}, one every {EVERY:g} s")
            self._say_sizes("target", sizes)
            return Films("target", folder.absolute(), "", "", sizes.total(), _resized(sizes))
        root, names = _tree(folder)
        found = _choose(root, names)
        if found:
            images, suffix = found[0].images, found[0].image_suffix
        else:
            images, suffix = _photo_folder(root, names), ""
        chosen = [name for name in names if name.endswith(suffix) and (not images or name.startswith(images + os.sep))]
        sizes = count_sizes(root, chosen, self._progress)
        self.said.append(f"target: {len(chosen)} photos {_pattern(images, suffix)} below {root}; no label is read")
        self._say_sizes("target", sizes)
        return Photos("target", root, images, suffix, len(chosen), _resized(sizes))

    def _validation(self, target: Path, folder: Path | None) -> Labelled | None:
        """Labelled photos of the target domain; None where there are none, or none of the source's classes."""
        if folder is None and isinstance(self.target, Films):
            self.said.append("validation: none, since films have no labels: nothing will be scored")
            return None
        if folder is not None:
            part = self._labelled("validation", [folder])
        else:
            root, names = _tree(target)
            found = _choose(root, names)
            if found is None:
                self.said.append("validation: none, since the target's photos have no labels: nothing will be scored")
                return None
            part = self._part("validation", root, found[0])
            self.said.append("validation: the target's own photos, since they have labels, which flatters the scores")
        return self._in_common(part)

    def _in_common(self, part: Labelled) -> Labelled | None:
        """The validation part with the source's classes only."""
        source = self.source
        if not part.convention or part.convention == source.convention:
            same = part.ids.read == source.ids.read
            part.names = {i: name for i, name in source.names.items() if i in part.ids.pixels} if same else {}
        part.names = {i: name for i, name in part.names.items() if name in set(source.names.values())}
        if not part.names:
            self.said.append("validation: left out, since its labels hold none of the source's ids: see docs/data.md")
            return None
        part.void = set(part.ids.pixels) - set(part.names)
        absent = [name for name in source.names.values() if name not in part.names.values()]
        if part.void or absent:
            more = f"; it never shows {', '.join(absent)}" if absent else ""
            self.said.append(f"validation: {len(part.void)} ids that the source lacks are ignored{more}")
        return part

    def _say_sizes(self, name: str, sizes: Counter) -> None:
        shown = ", ".join(f"{w}x{h} ({count})" for (h, w), count in sizes.most_common(3))
        more = f" and {len(sizes) - 3} others" if len(sizes) > 3 else ""
        height, width = _resized(sizes)
        self.said.append(f"{name}: sizes (width x height) {shown}{more}; shown to the network as {width}x{height}")

    def _say_ids(self, part: Labelled) -> None:
        ids = part.ids
        what = {"id": "grey value or palette index", "colour": "colour", "red": "red value, as in CARLA's"}[ids.read]
        kind = "colours" if ids.read == "colour" else "ids"
        void = f", of which {len(part.void)} are no classes" if part.void else ""
        self.said.append(
            f"{part.name}: a label pixel's id is its {what}: {len(ids.pixels)} {kind} in {ids.looked} of "
            f"{len(part.pairing.stems)} labels{void}"
        )
        names = f"the names of {part.convention}: check them" if part.convention else "numbers for names: edit them"
        self.said.append(f"{part.name}: classes have {names}")
        if ids.problems:
            self.said.append(f"{part.name}: {len(ids.problems)} labels are wrong, such as: {ids.problems[0]}")


def _tree(*folders: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that all of them lie in, and the image files in them by their paths below it."""
    root = Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
    return root, image_names(root, folders)


def _films(path: Path) -> list[Film]:
    """The films of a path that is one, or of a folder that holds films and no images; else nothing."""
    if path.is_dir():
        names = [name.lower() for name in walk_files(path, recursive=True)]
        if any(name.endswith(IMAGE_SUFFIXES) for name in names):
            return []
        if not any(name.endswith(VIDEO_SUFFIXES) for name in names):
            return []
    elif not path.name.lower().endswith(VIDEO_SUFFIXES):
        return []
    return find_frames(path, EVERY)


def _pattern(folder: str, suffix: str) -> str:
    return os.path.join(folder, f"*{suffix}")


def _resized(sizes: Counter) -> tuple[int, int]:
    """(height, width) of the most frequent size with its shorter side at SHORT_SIDE, in even numbers."""
    height, width = sizes.most_common(1)[0][0]
    factor = SHORT_SIDE / min(height, width)
    return 2 * round(height * factor / 2), 2 * round(width * factor / 2)


@cache
def _choose(root: Path, names: tuple[str, ...]) -> tuple[Pairing, list[Pairing]] | None:
    """The pairing of photos and labels that a person would take, and the other labels of the same photos."""
    looked = [found for found in _looked_at(root, names) if found[2].few]
    # Photos of few colours, as simple renderings have, count only where there are no others: labels pair with labels.
    good = [pairing for pairing, photos, _ in looked if not photos.few]
    good = good or [pairing for pairing, photos, labels in looked if photos.values > labels.values]
    most = max((len(pairing.stems) for pairing in good), default=0)
    good = [pairing for pairing in good if 10 * len(pairing.stems) >= 9 * most]
    ranked = sorted(good, key=lambda pairing: _rank(root, pairing))
    if not ranked:
        return None
    same = (ranked[0].images, ranked[0].image_suffix)
    return ranked[0], [pairing for pairing in ranked[1:] if (pairing.images, pairing.image_suffix) == same]


def _looked_at(root: Path, names: Sequence[str]) -> list[tuple[Pairing, Content, Content]]:
    """Each pairing with what its two sides hold; those whose files cannot be read are left out."""
    found, known = [], {}
    for pairing in pairings(names):
        sides = []
        for folder, suffix, name in (
            (pairing.images, pairing.image_suffix, pairing.image),
            (pairing.labels, pairing.label_suffix, pairing.label),
        ):
            if (folder, suffix) not in known:
                try:
                    known[folder, suffix] = content(root, [name(stem) for stem in pairing.stems])
                except DataError:
                    known[folder, suffix] = None
            sides.append(known[folder, suffix])
        if None not in sides:
            found.append((pairing, *sides))
    return found


def _rank(root: Path, pairing: Pairing) -> tuple:
    """Labels of known ids first, then single ids before colours, then short names."""
    read = what_is_read(root, [pairing.label(stem) for stem in pairing.stems])
    suffix = pairing.label_suffix.lower()
    known = [end in suffix for end in ("labeltrainids", "labelids", "")].index(True)
    return known, read == "colour", "instance" in suffix, len(suffix), pairing.labels, suffix


def _no_labels(root: Path, names: tuple[str, ...], folders: Sequence[Path]) -> DataError:
    """Why the folders hold no photos with labels."""
    looked = _looked_at(root, names)
    for pairing, photos, labels in looked:
        if labels.lossy and labels.flat >= FLAT and labels.flat > photos.flat:
            try:
                read_label_ids(root / pairing.label(pairing.stems[0]))
            except DataError as error:
                return error
    where = " and ".join(str(folder) for folder in folders)
    for pairing, _, labels in looked:
        return DataError(
            f"no labels were found in {where}: the names of {_pattern(pairing.images, pairing.image_suffix)} and "
            f"{_pattern(pairing.labels, pairing.label_suffix)} fit, but {root / labels.example} has {labels.values} "
            "values, as photos have"
        )
    return DataError(
        f"no labels were found in {where}: a label file needs its photo's name, such as images/0001.jpg and "
        "labels/0001.png"
    )


def _photo_folder(root: Path, names: Sequence[str]) -> str:
    """The folder below ``root`` that holds the photos: all of it, or the only one whose files are no label maps."""
    tops: dict[str, list[str]] = {}
    for name in names:
        tops.setdefault(name.split(os.sep)[0] if os.sep in name else "", []).append(name)
    if len(tops) > MOST_TOPS:
        return ""
    photos = [top for top, below in tops.items() if not content(root, below).few]
    if len(photos) == len(tops) or not photos:
        return ""
    if len(photos) > 1:
        raise DataError(
            f"{root} holds photos in {' and '.join(photos)} and other pictures beside them: name one folder of photos"
        )
    return photos[0]
