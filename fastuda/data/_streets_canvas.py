"""What `streets` draws with: stable random numbers, a pinhole camera and a canvas of painted parts.

The pictures must be the same to the byte on every machine and with every NumPy. So the random numbers come from
Philox's raw bits (NumPy's distributions may change between versions), and pixel values are computed with + - * / and
integers alone, one operation at a time: IEEE 754 rounds these alike everywhere, unlike sines, powers and sums over an
axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]  # red, green, blue in 0..1


class Draws:
    """Random numbers that follow from two 64-bit keys alone."""

    def __init__(self, seed: int, stream: int) -> None:
        self._philox = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))
        self._waiting: list[int] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        if not self._waiting:
            self._waiting = (self._philox.random_raw(512) >> np.uint64(11)).tolist()
        return low + (high - low) * (self._waiting.pop() * 2.0**-53)

    def integer(self, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        return low + int(self.uniform() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def choice(self, options):
        return options[int(self.uniform() * len(options))]

    def octets(self, *shape: int) -> np.ndarray:
        """An array of uint8, every value as likely as any other."""
        count = math.prod(shape)
        words = self._philox.random_raw((count + 7) // 8)
        return words.astype("<u8").view(np.uint8)[:count].reshape(shape)


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera. World: x metres to the right, y metres above the ground, z metres ahead."""

    focal: float  # pixels
    centre: float  # column of the vanishing point
    horizon: float  # row of the vanishing point
    height: float  # metres above the ground

    def column(self, x: float, z: float) -> float:
        return self.centre + self.focal * x / z

    def row(self, y: float, z: float) -> float:
        return self.horizon + self.focal * (self.height - y) / z


def span(low: float, high: float, limit: int, thin: bool = False) -> tuple[int, int]:
    """The range of pixels whose centres lie in [low, high), inside 0..limit; `thin` keeps at least one pixel."""
    first, last = math.ceil(low - 0.5), math.ceil(high - 0.5)
    if thin and last <= first:
        first = math.floor(0.5 * (low + high))
        last = first + 1
    return min(max(first, 0), limit), min(max(last, 0), limit)


Patch = tuple[np.ndarray, np.ndarray, np.ndarray]  # part numbers (m, n), their columns (n,) and rows (m, 1)


class Canvas:
    """An image of part numbers, painted far to near, and a table of what each part is.

    Painting writes one small integer per pixel; colours, labels and distances are looked up once, at the end.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.part = np.zeros((height, width), dtype=np.uint16)
        self.light = np.ones((height, width), dtype=np.float32)  # sunlight that reaches the ground, 0..1
        self._table: list[tuple[Colour, int, float, float]] = []
        self.rows = np.arange(height) + 0.5  # pixel centres
        self.columns = np.arange(width) + 0.5

    def add(self, colour: Colour, label: int, depth: float, rough: float = 0.0) -> int:
        """A new part. depth: metres; 0 is the ground, where it follows from the row. rough: strength of the texture."""
        self._table.append((colour, label, depth, rough))
        return len(self._table) - 1

    def labels(self) -> np.ndarray:
        """(H, W) uint8 Cityscapes train ids, 255 where there is none."""
        return np.array([label for _, label, _, _ in self._table], dtype=np.uint8)[self.part]

    def colours(self) -> np.ndarray:
        """(H, W, 3) float32 in 0..1."""
        return np.array([colour for colour, _, _, _ in self._table], dtype=np.float32)[self.part]

    def depths(self) -> np.ndarray:
        """(H, W) float32 metres, 0 on the ground."""
        return np.array([depth for _, _, depth, _ in self._table], dtype=np.float32)[self.part]

    def roughness(self) -> np.ndarray:
        """(H, W) float32, strength of the texture."""
        return np.array([rough for _, _, _, rough in self._table], dtype=np.float32)[self.part]

    def box(self, left: float, right: float, top: float, bottom: float) -> tuple[slice, slice]:
        """Rows and columns of the pixels inside a rectangle."""
        return slice(*span(top, bottom, self.height)), slice(*span(left, right, self.width))

    def patch(self, left: float, right: float, top: float, bottom: float) -> Patch | None:
        """The pixels inside a rectangle; None where it is out of the picture."""
        rows, columns = self.box(left, right, top, bottom)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return None
        return self.part[rows, columns], self.columns[columns], self.rows[rows][:, None]

    def rectangle(self, part: int, left: float, right: float, top: float, bottom: float, thin: bool = False) -> None:
        y0, y1 = span(top, bottom, self.height, thin)
        x0, x1 = span(left, right, self.width, thin)
        self.part[y0:y1, x0:x1] = part

    def ellipse(self, part: int, x: float, y: float, rx: float, ry: float, edge: np.ndarray | None = None) -> None:
        """An ellipse; `edge` (a square table of numbers around 0, side a power of 2) frays its outline."""
        patch = self.patch(x - 1.3 * rx, x + 1.3 * rx, y - 1.3 * ry, y + 1.3 * ry)
        if patch is None:
            return
        view, columns, rows = patch
        across, down = (columns - x) / rx, (rows - y) / ry
        distance = down * down + across * across
        if edge is not None:
            side = len(edge)
            distance = distance + edge[rows.astype(np.int64) % side, columns.astype(np.int64) % side]
        view[distance < 1.0] = part

    def shadow(self, light: float, x: float, y: float, rx: float, ry: float) -> None:
        """Darken the ground inside an ellipse."""
        rows, columns = self.box(x - rx, x + rx, y - ry, y + ry)
        across, down = (self.columns[columns] - x) / rx, (self.rows[rows] - y) / ry
        view = self.light[rows, columns]
        view[(down * down)[:, None] + across * across < 1.0] = light

    def upright(self, part: int, x0: float, x1: float, tops: tuple[float, float], bottoms: tuple[float, float]) -> None:
        """A quadrilateral with vertical sides at columns x0 and x1; tops and bottoms are the rows at those sides."""
        if x1 < x0:
            x0, x1, tops, bottoms = x1, x0, tops[::-1], bottoms[::-1]
        patch = self.patch(x0, x1, min(tops), max(bottoms))
        if patch is None:
            return
        view, columns, rows = patch
        along = (columns - x0) / (x1 - x0)
        top, bottom = tops[0] + (tops[1] - tops[0]) * along, bottoms[0] + (bottoms[1] - bottoms[0]) * along
        view[(rows >= top) & (rows < bottom)] = part

    def polygon(self, part: int, points: list[tuple[float, float]]) -> None:
        """A convex polygon of (column, row) corners in either order."""
        xs, ys = [x for x, _ in points], [y for _, y in points]
        patch = self.patch(min(xs), max(xs), min(ys), max(ys))
        if patch is None:
            return
        view, x, y = patch
        (ax, ay), (bx, by), (cx, cy) = points[:3]
        turn = 1.0 if (bx - ax) * (cy - ay) >= (by - ay) * (cx - ax) else -1.0
        inside = np.ones(view.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
            inside &= ((bx - ax) * turn) * (y - ay) >= ((by - ay) * turn) * (x - ax)
        view[inside] = part
