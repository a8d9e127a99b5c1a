"""Which files of unknown folders are photos, which are their label maps, and what ids the labels hold.

Names pair the files; the content of a few of them says what they are. The number of files that are decoded is bounded,
and which ones they are depends on the names alone.
"""

from __future__ import annotations

import bisect
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastuda.data.errors import DataError
from fastuda.data.files import IMAGE_SUFFIXES, Read, image_size, read_label_ids
from fastuda.data.image_files import opened
from fastuda.data.label_files import is_lossy
from fastuda.data.listing import walk_files
from fastuda.data.own_classes import MOST_CLASSES
from fastuda.labels import IGNORE

FIRST_NAMES = 12  # file names of a folder that are looked at before a sample, whose step may skip one kind of them
MOST_ALIKE = 12  # folders side by side: more are sequences or cities, not one of images and one of labels
PROBED = 5  # files of one folder that are decoded to say whether they are photos or labels
LABELS_READ = 200  # label files whose ids are counted
SIZES_READ = 1000  # images whose headers are read
FEW = 64  # values: no photo has so few
FLAT = 0.7  # share of pixels that equal their left neighbour: regions of a label map, not a photo

Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and how much there is."""


class Pairing(NamedTuple):
    """Photos and label files of the same names but for their folders and the ends of their names.

    images, labels: folders below the root. image_suffix, label_suffix: ends of the names, extensions included.
    stems: what the names share, with the folders below ``images``, sorted. unpaired: stems of photos without label.
    """

    images: str
    labels: str
    image_suffix: str
    label_suffix: str
    stems: list[str]
    unpaired: list[str]

    def image(self, stem: str) -> str:
        return os.path.join(self.images, stem + self.image_suffix)

    def label(self, stem: str) -> str:
        return os.path.join(self.labels, stem + self.label_suffix)


@dataclass
class Ids:
    """What the label files that were read hold.

    pixels, files: by id, how many pixels have it and in how many files it occurs. total: pixels, with ignored ones.
    """

    read: Read
    looked: int = 0
    total: int = 0
    pixels: Counter = field(default_factory=Counter)
    files: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def image_names(root: Path, folders: Iterable[Path]) -> tuple[str, ...]:
    """Paths below ``root`` of all image files in the folders and below them, sorted; hidden ones are left out.

    Raises DataError for a folder that does not exist, cannot be read or holds no image.
    """
    names: set[str] = set()
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"the directory {folder} does not exist")
        paths = walk_files(folder, recursive=True)
        found = {os.path.relpath(path, root) for path in paths if path.lower().endswith(IMAGE_SUFFIXES)}
        if not found:
            raise DataError(f"the directory {folder} holds no images")
        names |= found
    return tuple(sorted(names))


# ---- names ----


def pairings(names: Sequence[str]) -> list[Pairing]:
    """Every way in which the files of one folder pair with those of another, or of the same one, by their names.

    Both directions of a pair are listed: which of the two are the labels, only their content says.
    """
    in_folder: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, file = os.path.split(name)
        in_folder[folder].append(file)
    merged: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for one, other in _alike_folders(in_folder):
        images, labels, below = _split_folders(one, other)
        for image_suffix, label_suffix in _suffixes(in_folder[one], in_folder[other], one == other):
            stems = _stems(in_folder[one], image_suffix) & _stems(in_folder[other], label_suffix)
            merged[images, labels, image_suffix, label_suffix] += [os.path.join(below, stem) for stem in stems]
    found = []
    for (images, labels, image_suffix, label_suffix), stems in merged.items():
        below = [name[len(images) + 1 if images else 0 :] for name in names if _is_below(name, images)]
        others = _stems(below, image_suffix) - set(stems)
        found.append(Pairing(images, labels, image_suffix, label_suffix, sorted(stems), sorted(others)))
    return found


def _is_below(name: str, folder: str) -> bool:
    return not folder or name.startswith(folder + os.sep)


def _alike_folders(folders: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of folders whose paths differ in one component, and each folder with itself."""
    by_pattern: dict[tuple, list[str]] = defaultdict(list)
    folders = sorted(folders)
    for folder in folders:
        parts = folder.split(os.sep)
        for place in range(len(parts)):
            by_pattern[tuple(parts[:place]), tuple(parts[place + 1 :])].append(folder)
    pairs = [
        (one, other)
        for alike in by_pattern.values()
        if len(alike) <= MOST_ALIKE
        for one in alike
        for other in alike
        if one != other
    ]
    return [(folder, folder) for folder in folders] + pairs


def _split_folders(one: str, other: str) -> tuple[str, str, str]:
    """Two paths that differ in one component: both up to that component, and the rest, which they share."""
    first, second = one.split(os.sep), other.split(os.sep)
    place = next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), None)
    if place is None:
        return one, other, ""
    return os.sep.join(first[: place + 1]), os.sep.join(second[: place + 1]), os.sep.join(first[place + 1 :])


def _suffixes(images: Sequence[str], labels: Sequence[str], same: bool) -> list[tuple[str, str]]:
    """The ends of names that pair at least half of the label files that have such an end, by a sample of the names."""
    found: Counter = Counter()
    for label in [*labels[:FIRST_NAMES], *_spread(labels, 25)]:
        place = bisect.bisect_left(images, label)
        near = [images[i] for i in range(place - 2, place + 3) if 0 <= i < len(images)]
        ends = {_ends(image, label) for image in near}
        found.update(pair for pair in ends if pair is not None and not (same and pair[0] == pair[1]))
    kept = []
    for image_end, label_end in found:
        paired = len(_stems(images, image_end) & _stems(labels, label_end))
        if paired and 2 * paired >= min(len(_stems(images, image_end)), len(_stems(labels, label_end))):
            kept.append((image_end, label_end))
    return kept


def _ends(image: str, label: str) -> tuple[str, str] | None:
    """What follows the beginning that two file names share, cut where a word begins; None where a number follows."""
    length = len(os.path.commonprefix([image, label]))
    while length and not (_begins_word(image[length:]) and _begins_word(label[length:])):
        length -= 1
    ends = image[length:], label[length:]
    if not length or any(re.search(r"[^0-9A-Za-z]\d+[^0-9A-Za-z]", end) for end in ends):
        return None
    return ends


def _begins_word(rest: str) -> bool:
    return bool(rest) and not rest[0].isalnum()


def _stems(names: Iterable[str], end: str) -> set[str]:
    return {name[: -len(end)] for name in names if name.endswith(end) and len(os.path.basename(name)) > len(end)}


def _spread(items: Sequence, count: int) -> list:
    """At most ``count`` of the items, evenly spread from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


# ---- content ----


class Content(NamedTuple):
    """What the files of one folder are.

    few: they are lossless and hold few values in flat regions, as label maps do. flat: share of pixels that equal their
    left neighbour. values: of the file with the most, whose name is ``example``.
    """

    few: bool
    lossy: bool
    flat: float
    values: int
    example: str


def content(root: Path, names: Sequence[str]) -> Content:
    """What a sample of the files is. Raises DataError, about the first one, where none of the sample can be read."""
    probes, error = [], None
    for name in _spread(names, PROBED):
        try:
            probes.append((*_probe(root / name), name))
        except DataError as problem:
            error = error or problem
    if not probes:
        raise error or DataError(f"{root} holds no images")
    flat = float(np.median([probe[0] for probe in probes]))
    values, lossy = max(probe[1] for probe in probes), any(probe[2] for probe in probes)
    few = not lossy and (values <= FEW or values <= 256 and flat >= FLAT)
    return Content(few, lossy, flat, values, max(probes, key=lambda probe: probe[1])[3])


def _probe(path: Path) -> tuple[float, int, bool]:
    """(share of pixels that equal their left neighbour, number of values or colours, whether the format is lossy)."""
    with opened("image", path) as image:
        lossy = is_lossy(image, path)
        colours = image.mode not in ("1", "L", "P") and not image.mode.startswith(("I", "F"))
        pixels = np.asarray(image.convert("RGB") if colours else image)
    if pixels.ndim == 3:
        pixels = (pixels.astype(np.int32) * (65536, 256, 1)).sum(2, dtype=np.int32)
    # Neighbours in a JPEG's flat region differ a little.
    steps = np.abs(np.diff((pixels >> 8 & 255 if colours else pixels).astype(np.int32), axis=1))
    flat = float((steps <= (2 if lossy else 0)).mean()) if steps.size else 1.0
    return flat, len(np.unique(pixels)), lossy


def what_is_read(root: Path, labels: Sequence[str]) -> Read:
    """Which part of these label files is the id: CARLA writes it into red, others the whole colour or a grey value."""
    colours: set[int] = set()
    for name in _spread(labels, PROBED):
        try:
            read_label_ids(root / name, "id")
            return "id"
        except DataError:
            colours.update(np.unique(read_label_ids(root / name, "colour")).tolist())
    reds = {colour >> 16 for colour in colours}
    only_red = all(colour & 0xFFFF == 0 for colour in colours)
    return "red" if only_red or len(colours) > 256 >= len(reds) and len(reds) <= FEW else "colour"


def count_ids(root: Path, pairing: Pairing, progress: Progress) -> Ids:
    """The ids of a sample of the label files of a pairing.

    Raises DataError for a lossy label, for labels of more ids than there can be classes, and where none can be read.
    """
    chosen = _spread(pairing.stems, LABELS_READ)
    ids = Ids(what_is_read(root, [pairing.label(stem) for stem in chosen]))
    for number, stem in enumerate(chosen, 1):
        path = root / pairing.label(stem)
        try:
            label = read_label_ids(path, ids.read)
            size = image_size(root / pairing.image(stem))
        except DataError as error:
            ids.problems.append(str(error))
            continue
        if label.shape != size:
            ids.problems.append(
                f"the label {path} is {label.shape[1]}x{label.shape[0]} pixels (width x height), its image "
                f"{size[1]}x{size[0]}"
            )
        values, counts = np.unique(label, return_counts=True)
        ids.looked += 1
        ids.total += label.size
        ids.pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        ids.files.update(values.tolist())
        progress("labels", number, len(chosen))
    if not ids.looked:
        raise DataError(ids.problems[0])
    if ids.read != "colour":
        ids.pixels.pop(IGNORE, None)
    if len(ids.pixels) > MOST_CLASSES:
        what = "colours" if ids.read == "colour" else "ids"
        raise DataError(
            f"the files {root / pairing.labels} hold {len(ids.pixels)} {what}, more than there can be classes "
            f"({MOST_CLASSES}): they are photos, instances or depths, and no labels"
        )
    return ids


def count_sizes(root: Path, names: Sequence[str], progress: Progress) -> Counter:
    """(height, width) of a sample of images -> how many have it. Raises DataError where none can be read."""
    sizes: Counter = Counter()
    problem = None
    chosen = _spread(names, SIZES_READ)
    for number, name in enumerate(chosen, 1):
        try:
            sizes[image_size(root / name)] += 1
        except DataError as error:
            problem = problem or error
        progress("sizes", number, len(chosen))
    if problem is not None and not sizes:
        raise problem
    return sizes
