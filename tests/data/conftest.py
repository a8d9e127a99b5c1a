"""Small data sets on disk, in every layout."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEIGHT, WIDTH = 12, 20


def png(height: int, width: int, bits: int, colour: int, rows: bytes, palette: bytes = b"") -> bytes:
    """A PNG file written by hand: colour 0 is grey, 2 RGB, 3 palette; ``rows`` each begin with the filter byte 0."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", palette) if palette else b"", chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def write_png16(path: Path, array: np.ndarray) -> None:
    """A 16-bit RGB (H, W, 3) or grey (H, W) PNG: no library here writes what SYNTHIA holds."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(*array.shape[:2], 16, 2 if array.ndim == 3 else 0, rows))


class Files:
    """Writes images and labels below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rng = np.random.default_rng(0)

    def image(self, path: str, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
        pixels = self.rng.integers(0, 256, (height, width, 3), np.uint8)
        self._path(path)
        Image.fromarray(pixels).save(self.root / path)
        return pixels

    def label(self, path: str, ids: np.ndarray, palette: bool = False) -> None:
        picture = Image.fromarray(ids.astype(np.uint8))
        if palette:
            picture = Image.frombytes("P", picture.size, picture.tobytes())
            picture.putpalette([255 - i // 3 for i in range(768)])
        self._path(path)
        picture.save(self.root / path)

    def label16(self, path: str, array: np.ndarray) -> None:
        write_png16(self.root / path, array)

    def text(self, path: str, content: str) -> None:
        self._path(path)
        (self.root / path).write_text(content)

    def ids(self, values: list[int], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
        return self.rng.choice(np.array(values, np.uint8), (height, width))

    def gta5(self, folder: str, count: int = 5, values: tuple[int, ...] = (7, 8, 11, 0, 26)) -> None:
        for i in range(count):
            self.image(f"{folder}/images/{i:05d}.png")
            self.label(f"{folder}/labels/{i:05d}.png", self.ids(list(values)), palette=True)

    def _path(self, path: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)


@pytest.fixture
def written_png():
    """The function ``png``."""
    return png


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)
