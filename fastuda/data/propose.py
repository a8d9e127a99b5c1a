"""A task file for folders that nobody described: what ``fastuda data init`` writes, and what it assumed.

fastuda/data/survey.py looks at the files; here is decided what follows from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fastuda.data.errors import DataError
from fastuda.data.files import IMAGE_SUFFIXES
from fastuda.data.label_names import known_names
from fastuda.data.listing import walk_files
from fastuda.data.survey import (
    Ids,
    Pairing,
    Progress,
    count_ids,
    count_sizes,
)
from fastuda.data.tree import Tree, pattern
from fastuda.data.video import VIDEO_SUFFIXES, Film, find_frames

EVERY = 1.0  # seconds between two frames of a film
BLACK = 0  # as an id made of a colour: what is not labelled, in most data sets of coloured labels
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
        self._trees: dict[tuple[Path, ...], Tree] = {}
        if target is None:
            sources, target = self._without_target(sources)
        self.source = self._labelled("source", sources)
        self.target = self._photos(target)
        self.validation = self._validation(target, validation)

    def _without_target(self, folders: Sequence[Path]) -> tuple[Sequence[Path], Path]:
        """Of two folders the one with labels is the source; where both have labels, the first."""
        if len(folders) != 2:
            raise DataError("which photos to adapt to is not said: name their folder with --target DIR")
        having = [folder for folder in folders if self._tree(folder).best]
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
        tree = self._tree(*folders)
        if not tree.pairings:
            raise tree.why_unlabelled()
        best, *others = tree.pairings
        part = self._part(name, tree.root, best)
        for other in others:
            labels = f"{len(other.stems)} labels {pattern(other.labels, other.label_suffix)}"
            same = (other.images, other.image_suffix) == (best.images, best.image_suffix)
            photos = "" if same else f" of {pattern(other.images, other.image_suffix)}"
            self.said.append(f"{name}: not taken: {labels}{photos}")
        if kind := tree.like_layout():
            self.said.append(f"{name}: has the folders of kind: {kind}, which may fit better (docs/data.md)")
        self._say_ids(part)
        return part

    def _tree(self, *folders: Path) -> Tree:
        if folders not in self._trees:
            self._trees[folders] = Tree(*folders)
        return self._trees[folders]

    def _part(self, name: str, root: Path, pairing: Pairing) -> Labelled:
        sizes = count_sizes(root, [pairing.image(stem) for stem in pairing.stems], self._progress)
        self.said.append(
            f"{name}: {len(pairing.stems)} photos {pattern(pairing.images, pairing.image_suffix)} with labels "
            f"{pattern(pairing.labels, pairing.label_suffix)} below {root}"
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
        tree = self._tree(folder)
        images, suffix = tree.photos()
        chosen = tree.below(images, suffix)
        sizes = count_sizes(tree.root, chosen, self._progress)
        self.said.append(f"target: {len(chosen)} photos {pattern(images, suffix)} below {tree.root}; no label is read")
        self._say_sizes("target", sizes)
        return Photos("target", tree.root, images, suffix, len(chosen), _resized(sizes))

    def _validation(self, target: Path, folder: Path | None) -> Labelled | None:
        """Labelled photos of the target domain; None where there are none, or none of the source's classes."""
        if folder is None and isinstance(self.target, Films):
            self.said.append("validation: none, since films have no labels: nothing will be scored")
            return None
        if folder is not None:
            part = self._labelled("validation", [folder])
        else:
            tree = self._tree(target)
            if not tree.best:
                self.said.append("validation: none, since the target's photos have no labels: nothing will be scored")
                return None
            part = self._part("validation", tree.root, tree.held_out() or tree.best)
            if not tree.held_out():
                self.said.append(
                    "validation: the target's own photos, since they have labels, which flatters the scores"
                )
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
            self.said.append(f"validation: ids that the source lacks are ignored ({len(part.void)}){more}")
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


def _resized(sizes: Counter) -> tuple[int, int]:
    """(height, width) of the most frequent size with its shorter side at SHORT_SIDE, in even numbers."""
    height, width = sizes.most_common(1)[0][0]
    factor = SHORT_SIDE / min(height, width)
    return 2 * round(height * factor / 2), 2 * round(width * factor / 2)
