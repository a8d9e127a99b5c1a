"""Resizing and geometric augmentation of uint8 images and labels, on the CPU."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from fastuda.data.classes import IGNORE
from fastuda.data.config import Augment
from fastuda.labels import nearest_pixels


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 -> (*size, 3) uint8, bilinear and antialiased (Pillow's, unlike OpenCV's); (0, 0) = unchanged."""
    if size == (0, 0) or image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 -> size uint8 by the rule of ``fastuda.labels.nearest_pixels``; (0, 0) = unchanged."""
    if size == (0, 0) or label.shape == size:
        return label
    rows, columns = (nearest_pixels(np.arange(new), new, old) for new, old in zip(size, label.shape, strict=True))
    return label[rows][:, columns]


class View(NamedTuple):
    """An augmented image and its label, and which part of the whole image it shows.

    window: (top, bottom, left, right), the places of the outermost rows and columns in the whole image, where 0 is its
    first row or column and 1 its last. (0, 1, 0, 1) is the whole image, (0, 1, 1, 0) its mirror image; places outside
    0..1 are padding.
    """

    image: np.ndarray
    label: np.ndarray | None
    window: tuple[float, float, float, float]


def geometric(image: np.ndarray, label: np.ndarray | None, augment: Augment, rng: np.random.Generator) -> View:
    """Random scale, crop and horizontal flip, the same for image and label.

    Only the pixels inside the crop are resized. Where the scaled image is smaller than the crop, it lies at a random
    place in it, and the rest is filled with the image's mean colour and ignored in the label. Every call takes four
    numbers from ``rng``, so that switching one augmentation on does not change what the others draw.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) uint8, or None.

    Returns:
        image (h, w, 3), label (h, w) uint8 and window, where (h, w) is ``augment.crop``, or the scaled size without
        a crop.
    """
    draws = rng.random(4)
    low, high = augment.scale
    factor = low + (high - low) * draws[0]
    height, width = image.shape[:2]
    scaled = (max(1, round(height * factor)), max(1, round(width * factor)))
    crop = scaled if augment.crop == (0, 0) else augment.crop
    rows = _window(scaled[0], crop[0], draws[1])
    columns = _window(scaled[1], crop[1], draws[2])
    flip = draws[3] < augment.flip
    fill = image.mean(axis=(0, 1)).round() if scaled[0] < crop[0] or scaled[1] < crop[1] else 0
    image = _padded(_image_crop(image, scaled, rows, columns), rows, columns, crop, fill)
    if label is not None:
        label = _padded(_label_crop(label, scaled, rows, columns), rows, columns, crop, IGNORE)
    if flip:
        image = image[:, ::-1]
        label = None if label is None else label[:, ::-1]
    ends = [_ends(part, side, whole) for part, side, whole in zip((rows, columns), crop, scaled, strict=True)]
    return View(image, label, (*ends[0], *(ends[1][::-1] if flip else ends[1])))


def _ends(part: tuple[int, int, int], crop: int, scaled: int) -> tuple[float, float]:
    """Where a crop's first and last pixel lie along one axis; 0 and 1 are the scaled image's first and last pixel."""
    first, last = part[0] - part[1], max(scaled - 1, 1)
    return first / last, (first + crop - 1) / last


def _window(scaled: int, crop: int, draw: float) -> tuple[int, int, int]:
    """(start in the scaled image, start in the crop, length) along one axis."""
    slack = abs(scaled - crop)
    start = min(int(draw * (slack + 1)), slack)
    return (start, 0, crop) if scaled >= crop else (0, start, scaled)


def _image_crop(
    image: np.ndarray, scaled: tuple[int, int], rows: tuple[int, int, int], columns: tuple[int, int, int]
) -> np.ndarray:
    """The part of the image, resized to ``scaled``, that lies in the crop; nothing else is resized."""
    (top, _, height), (left, _, width) = rows, columns
    if image.shape[:2] == scaled:
        return image[top : top + height, left : left + width]
    down, across = image.shape[0] / scaled[0], image.shape[1] / scaled[1]
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    # Rounding may put the box outside the image by the last bit of a float, which Pillow refuses.
    box = (box[0], box[1], min(box[2], image.shape[1]), min(box[3], image.shape[0]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box))


def _label_crop(
    label: np.ndarray, scaled: tuple[int, int], rows: tuple[int, int, int], columns: tuple[int, int, int]
) -> np.ndarray:
    """The same part of ``resize_label(label, scaled)``."""
    inside_rows, inside_columns = (
        nearest_pixels(np.arange(start, start + length), new, old)
        for (start, _, length), new, old in zip((rows, columns), scaled, label.shape, strict=True)
    )
    return label[inside_rows][:, inside_columns]


def _padded(
    piece: np.ndarray,
    rows: tuple[int, int, int],
    columns: tuple[int, int, int],
    crop: tuple[int, int],
    fill: np.ndarray | int,
) -> np.ndarray:
    """``piece`` at its place in a crop that is ``fill`` elsewhere; itself where it is as large as the crop."""
    if piece.shape[:2] == crop:
        return piece
    (_, top, height), (_, left, width) = rows, columns
    canvas = np.empty((*crop, *piece.shape[2:]), np.uint8)
    canvas[:] = fill
    canvas[top : top + height, left : left + width] = piece
    return canvas
