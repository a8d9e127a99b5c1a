"""Films as a data set: a frame every so many seconds, found once and decoded when it is asked for.

Needs PyAV, the extra ``fastuda[video]``. The films are read with FFmpeg's demuxers of the formats below alone: a file
that is a playlist in truth would make FFmpeg open other files and addresses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastuda._paths import check_regular
from fastuda.data.classes import ClassSet
from fastuda.data.dataset import Dataset
from fastuda.data.errors import DataError, UnreadableFile
from fastuda.data.layout import Layout
from fastuda.data.listing import walk_files
from fastuda.data.roots import expanded, moved

if TYPE_CHECKING:  # config.py imports the layouts
    from fastuda.data.config import DatasetConfig

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv")
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,asf,flv"
_OPEN = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}


class Film(NamedTuple):
    """A film: its file, the time stamps of the chosen frames, the unit of a time stamp in seconds, what is shown.

    stamps: integers in units of ``unit``. size: (height, width) in pixels of an upright frame.
    """

    name: str
    path: Path
    stamps: list[int]
    unit: Fraction
    size: tuple[int, int]


class VideoFrames:
    """The chosen frames of films, in order: an unlabelled data set.

    Args:
        classes: of the task; nothing here has labels.
        films: as ``find_frames`` returns them.
    """

    labelled = False

    def __init__(self, classes: ClassSet, films: Sequence[Film]) -> None:
        self.classes = classes
        self._films = list(films)
        self._first = np.cumsum([0, *(len(film.stamps) for film in films)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def name(self, index: int) -> str:
        """The film's name and the second of the frame in it."""
        film, stamp = self._frame(index)
        return f"{film.name}@{float((stamp - film.stamps[0]) * film.unit):.3f}s"

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright. Decodes from the key frame before it. Raises UnreadableFile."""
        film, stamp = self._frame(index)
        with _opened(film.path) as (container, stream):
            container.seek(stamp, stream=stream, backward=True)
            for frame in container.decode(stream):
                if _stamp(frame) is not None and _stamp(frame) >= stamp:
                    return _upright(frame)
        raise UnreadableFile(f"the film {film.path} ends before its frame at {float(stamp * film.unit):.3f} s")

    def image_size(self, index: int) -> tuple[int, int]:
        return self._frame(index)[0].size

    def label(self, index: int) -> np.ndarray:
        raise DataError(f"the label of {self.name(index)} was asked for, but a film has none")

    def _frame(self, index: int) -> tuple[Film, int]:
        if not 0 <= index < len(self):
            raise ValueError(f"the index of a frame must be between 0 and {len(self) - 1}, not {index}")
        film = int(np.searchsorted(self._first, index, side="right")) - 1
        return self._films[film], self._films[film].stamps[index - self._first[film]]


class Video(Layout):
    """One film or a folder of them, as a target: a frame every ``every`` seconds."""

    kind = "video"

    def check(self, config: DatasetConfig) -> None:
        if config.labelled:
            raise DataError("a video data set has no labels, so it can only be the target, with labelled set to false")

    def dataset(self, config: DatasetConfig, classes: ClassSet, moves: Sequence[str] = ()) -> Dataset:
        self.check(config)
        if not config.root:
            raise DataError("a video data set needs the field 'root', a film or a folder of films")
        root = expanded(moved(config.root, moves))
        return VideoFrames(classes, find_frames(root, config.every))


def find_frames(root: Path, every: float) -> list[Film]:
    """The films of a file or of a folder and those below it, sorted by path, each with a frame every ``every`` seconds.

    Reads every film once without decoding it. Raises DataError, in one sentence, for a path that does not exist or
    holds no film, and UnreadableFile for a film that does not open.
    """
    if root.is_dir():
        names = sorted(path for path in walk_files(root, recursive=True) if path.lower().endswith(VIDEO_SUFFIXES))
        if not names:
            raise DataError(f"the directory {root} holds no films ({', '.join(VIDEO_SUFFIXES)})")
        return [_film(Path(name), os.path.relpath(name, root), every) for name in names]
    if not root.exists():
        raise DataError(f"the film or directory {root} does not exist (--data.root OLD=NEW moves the roots of a task)")
    return [_film(root, root.name, every)]


def _film(path: Path, name: str, every: float) -> Film:
    with _opened(path) as (container, stream):
        stamps = sorted({stamp for packet in container.demux(stream) if (stamp := _stamp(packet)) is not None})
        if not stamps:
            raise UnreadableFile(f"the film {path} holds no pictures")
        unit = stream.time_base
        container.seek(stamps[0], stream=stream, backward=True)
        first = next(container.decode(stream), None)
        if first is None:
            raise UnreadableFile(f"no picture of the film {path} can be decoded")
        size = _upright(first).shape[:2]
    return Film(name, path, _every(stamps, Fraction(every).limit_denominator(10**6) / unit), unit, size)


def _every(stamps: list[int], step: Fraction) -> list[int]:
    """Of the sorted stamps the first at or after each multiple of ``step``, counted from the first stamp."""
    chosen, due = [], Fraction(stamps[0])
    for stamp in stamps:
        if stamp >= due:
            chosen.append(stamp)
            # A gap in the film is no reason to take the frames after it closer together.
            due += step * ((stamp - due) // step + 1)
    return chosen


def _stamp(item: Any) -> int | None:
    """The time stamp of a packet or frame; AVI has those of decoding only."""
    return item.dts if item.pts is None else item.pts


def _upright(frame: Any) -> np.ndarray:
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The film's container and its first stream of pictures; whatever is wrong with it becomes one sentence."""
    try:
        import av
    except ImportError:
        raise DataError("a video data set needs PyAV: pip install 'fastuda[video]'") from None
    try:
        check_regular(path)
        # An absolute path cannot be taken for a protocol's name.
        with av.open(os.path.abspath(path), options=_OPEN, metadata_errors="replace") as container:
            if not container.streams.video:
                raise UnreadableFile(f"the film {path} holds no pictures")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # the loading processes are the parallel part
            yield container, stream
    except (OSError, av.error.FFmpegError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UnreadableFile(f"the film {path} cannot be read: {reason}") from None
