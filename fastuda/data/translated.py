"""Source images translated into the target's style (CycleGAN and the like), beside the originals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastuda.data.dataset import FileDataset
from fastuda.data.errors import DataError, SizeMismatch, UnreadableFile
from fastuda.data.files import image_size, read_image, same_aspect
from fastuda.data.listing import image_files

_SLACK = 2  # pixels a side: translation networks round sides to multiples of four


class Translated:
    """The translated images of a data set alone, with the labels of their originals.

    Args:
        originals: the data set that was translated.
        paths: the translated image of each of its images.
    """

    def __init__(self, originals: FileDataset, paths: Sequence[Path]) -> None:
        self.classes, self.labelled = originals.classes, originals.labelled
        self._originals, self._paths = originals, list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        return f"{self._originals.name(index)} (translated)"

    def image(self, index: int) -> np.ndarray:
        return read_image(self._paths[index])

    def image_size(self, index: int) -> tuple[int, int]:
        return image_size(self._paths[index])

    def label(self, index: int) -> np.ndarray:
        return self._originals.label(index)


class WithTranslated:
    """A data set followed by its translated images: image n + i is the copy of image i, and has its label."""

    def __init__(self, originals: FileDataset, paths: Sequence[Path]) -> None:
        self.classes, self.labelled = originals.classes, originals.labelled
        self.originals, self.translated = originals, Translated(originals, paths)

    def __len__(self) -> int:
        return len(self.originals) + len(self.translated)

    def name(self, index: int) -> str:
        part, index = self._part(index)
        return part.name(index)

    def image(self, index: int) -> np.ndarray:
        part, index = self._part(index)
        return part.image(index)

    def image_size(self, index: int) -> tuple[int, int]:
        part, index = self._part(index)
        return part.image_size(index)

    def label(self, index: int) -> np.ndarray:
        part, index = self._part(index)
        return part.label(index)

    def _part(self, index: int) -> tuple[FileDataset | Translated, int]:
        count = len(self.originals)
        return (self.originals, index) if index < count else (self.translated, index - count)


def find_translated(originals: FileDataset, images: Path, directory: Path) -> list[Path]:
    """The translated image in ``directory`` of each image of ``originals``, which lie below ``images``.

    A copy has the path of the original relative to ``images``, or the original's file name alone, and the extension of
    any image format. It may be scaled but not cropped, which would put the labels on other pixels. Reads the
    headers of all originals and copies.

    Raises DataError, in one sentence that names the file, where ``directory`` holds no images, or a copy is missing,
    does not have the original's aspect ratio to two pixels, or is found for two images.
    """
    files: dict[str, Path] = {}
    for path in image_files(directory, recursive=True):
        # Where an image is there in two formats, the first by name is taken.
        files.setdefault(_stem(path, directory), path)
    if not files:
        raise DataError(f"the directory of translated images {directory} holds no images")
    paths = [originals.image_path(index) for index in range(len(originals))]
    missing = [path for path in paths if _copy(files, path, images) is None]
    if missing:
        more = f" (and of {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UnreadableFile(f"the directory {directory} holds no translated image of {missing[0]}{more}")
    taken: dict[Path, Path] = {}
    for path in paths:
        copy = _copy(files, path, images)
        if copy in taken:
            raise DataError(f"the translated image {copy} would be that of both {taken[copy]} and {path}")
        taken[copy] = path
        _check_shape(path, copy)
    return list(taken)


def _stem(path: Path, directory: Path) -> str:
    return path.relative_to(directory).with_suffix("").as_posix()


def _copy(files: dict[str, Path], original: Path, images: Path) -> Path | None:
    return files.get(_stem(original, images)) or files.get(original.stem)


def _check_shape(original: Path, copy: Path) -> None:
    size, copied = image_size(original), image_size(copy)
    if not same_aspect(size, copied, _SLACK):
        raise SizeMismatch(
            f"the translated image {copy} is {copied[1]}x{copied[0]} pixels (width x height), "
            f"which is not the aspect ratio of {original} with {size[1]}x{size[0]}"
        )
