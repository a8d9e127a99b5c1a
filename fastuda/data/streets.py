"""`streets`: procedural street scenes, the data that comes with the package.

>>> scenes = Streets(class_set("common11"), look="camera", split="train", count=300, seed=0)
>>> scenes.image(7), scenes.label(7)  # (96, 192, 3) uint8 RGB, (96, 192) uint8 class indices, 255 = ignore

Nothing is stored: a scene is drawn when it is asked for, and the same world seed, look, split and index give the same
picture to the byte on every machine. The two looks are two domains: `rendered` is a game (the usual source), `camera` a
dashboard camera in another town (the usual target). They share kinds of things, never a scene.
"""

from __future__ import annotations

import operator

import numpy as np

from fastuda.data._streets_canvas import Camera, Canvas, Draws
from fastuda.data._streets_looks import CAMERA, RENDERED
from fastuda.data._streets_world import draw_scene
from fastuda.data.classes import ClassSet

LOOKS = {"rendered": RENDERED, "camera": CAMERA}
SPLITS = {"train": 0, "val": 1 << 20}  # number of the first scene: the splits are two parts of one world
MOST = 1 << 20  # scenes in a split
NATIVE = (96, 192)  # height, width in pixels
SMALLEST, LARGEST = 32, 8192  # pixels


class Streets:
    """A labelled data set of `count` procedural street scenes (the protocol of `fastuda.data.dataset.Dataset`).

    classes: which Cityscapes train ids are labels, and in which order; every other pixel is 255.
    look: "rendered" or "camera". split: "train" or "val". count: scenes, 1..2**20. seed: of the world, 0..2**64 - 1.
    size: (height, width) in pixels, each 32..8192; (0, 0) is the native 96 x 192. A larger size shows the same street
    in finer detail.
    Raises ValueError for any other value.
    """

    labelled = True  # where a config says otherwise, `fastuda.data.layouts` wraps the scenes in `Unlabelled`

    def __init__(
        self,
        classes: ClassSet,
        look: str = "rendered",
        split: str = "train",
        count: int = 300,
        seed: int = 0,
        size: tuple[int, int] = NATIVE,
    ) -> None:
        size = NATIVE if tuple(size) == (0, 0) else tuple(size)
        if look not in LOOKS:
            raise ValueError(f"streets: look must be one of {', '.join(LOOKS)}, not {look!r}")
        if split not in SPLITS:
            raise ValueError(f"streets: split must be one of {', '.join(SPLITS)}, not {split!r}")
        if not 1 <= count <= MOST:
            raise ValueError(f"streets: count must be between 1 and {MOST} scenes, not {count}")
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"streets: seed must be between 0 and 2**64 - 1, not {seed}")
        if len(size) != 2 or not all(SMALLEST <= side <= LARGEST for side in size):
            raise ValueError(f"streets: size must be (height, width), each {SMALLEST} to {LARGEST} pixels, not {size}")
        self.classes = classes
        self.look, self.split, self.count, self.seed, self.size = look, split, count, seed, size
        self._last: tuple[int, Canvas, Camera] | None = None

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """A name for files: look, split, world seed and index."""
        return f"{self.look}_{self.split}_{self.seed}_{self._check(index):06d}"

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Raises ValueError where the index is not in 0..count - 1."""
        canvas, camera = self._drawn(index)
        return LOOKS[self.look].finish(canvas, camera, self._draws(index, finish=True))

    def image_size(self, index: int) -> tuple[int, int]:
        """(H, W) of every scene."""
        self._check(index)
        return self.size

    def label(self, index: int) -> np.ndarray:
        """(H, W) uint8 class indices, 255 = ignore. Raises ValueError where the index is not in 0..count - 1."""
        return self.classes.lut[self._drawn(index)[0].labels()]

    def _check(self, index: int) -> int:
        index = operator.index(index)
        if not 0 <= index < self.count:
            raise ValueError(f"streets: index must be between 0 and {self.count - 1}, not {index}")
        return index

    def _draws(self, index: int, finish: bool) -> Draws:
        """The random numbers of a scene: one stream for the layout and one for the finish."""
        scene = SPLITS[self.split] + index
        return Draws(self.seed, scene | LOOKS[self.look].number << 32 | int(finish) << 40)

    def _drawn(self, index: int) -> tuple[Canvas, Camera]:
        """Image and label of a scene are usually asked for one after the other: draw it once."""
        index = self._check(index)
        last = self._last
        if last is None or last[0] != index:
            look = LOOKS[self.look]
            last = (index, *draw_scene(*self.size, self._draws(index, finish=False), look))
            self._last = last
        return last[1], last[2]
