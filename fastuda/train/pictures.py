"""Label maps as coloured pictures, and PNG files that are either complete or absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fastuda.data.classes import ClassSet
from fastuda.train.checkpoint import write_atomically


def colour(labels: np.ndarray, classes: ClassSet) -> np.ndarray:
    """Class indices (H, W) as RGB (H, W, 3) uint8 in the class set's palette; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: classes.num_classes] = classes.palette
    return table[labels]


def save_comparison(path: Path, image: np.ndarray, panels: list[np.ndarray], classes: ClassSet) -> None:
    """Write one PNG: the image (h, w, 3), resized to the size of the label maps (H, W), and the maps to its right."""
    height, width = panels[0].shape
    photo = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    save_png(path, np.concatenate([photo, *(colour(panel, classes) for panel in panels)], axis=1))


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3) uint8 as a PNG, completely or not at all."""
    write_atomically(path, lambda file: Image.fromarray(pixels).save(file, "png"))
