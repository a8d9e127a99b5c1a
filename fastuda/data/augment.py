"""Resizing and geometric augmentation of uint8 images and labels, on the CPU."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from fastuda.data.classes import IGNORE
from fastuda.data.config import Augment

_BILINEAR, _NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 -> (*size, 3) uint8, bilinear and antialiased (Pillow's, unlike OpenCV's); (0, 0) = unchanged."""
    if size == (0, 0) or image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], _BILINEAR))


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 -> size uint8, nearest; (0, 0) = unchanged."""
    if size == (0, 0) or label.shape == size:
        return label
    return np.asarray(Image.fromarray(label).resize(size[::-1], _NEAREST))


class View(NamedTuple):
    """An augmented image and its label, and where the image's pixels come from.

    window: the first and last row's and the first and last column's places in the whole image, as fractions between its
    first and its last pixel: (0, 1, 0, 1) is the image itself, (0, 1, 1, 0) its mirror image. Outside 0..1: padding.
    """

    image: np.ndarray
    label: np.ndarray | None
    window: tuple[float, float, float, float]


def geometric(image: np.ndarray, label: np.ndarray | None, augment: Augment, rng: np.random.Generator) -> View:
    """Random scale, crop and horizontal flip, the same for image and label.

    Only the pixels below the crop are resized. Where the scaled image is smaller than the crop it lies at a random
    place of it; the rest is the image's mean colour, ignored in the label. Every call takes four draws from ``rng``
    whatever is switched on, so that switching one thing on leaves the others as they were.

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
    image = _resized_crop(image, scaled, rows, columns, crop, fill, _BILINEAR)
    if label is not None:
        label = _resized_crop(label, scaled, rows, columns, crop, IGNORE, _NEAREST)
    if flip:
        image = image[:, ::-1]
        label = None if label is None else label[:, ::-1]
    ends = [_ends(part, side, whole) for part, side, whole in zip((rows, columns), crop, scaled, strict=True)]
    return View(image, label, (*ends[0], *(ends[1][::-1] if flip else ends[1])))


def _ends(part: tuple[int, int, int], crop: int, scaled: int) -> tuple[float, float]:
    """Places of the first and last pixel of a crop along one axis, as fractions of the scaled image's last."""
    first, last = part[0] - part[1], max(scaled - 1, 1)
    return first / last, (first + crop - 1) / last


def _window(scaled: int, crop: int, draw: float) -> tuple[int, int, int]:
    """(start in the scaled image, start in the crop, length) along one axis."""
    slack = abs(scaled - crop)
    start = min(int(draw * (slack + 1)), slack)
    return (start, 0, crop) if scaled >= crop else (0, start, scaled)


def _resized_crop(
    array: np.ndarray,
    scaled: tuple[int, int],
    rows: tuple[int, int, int],
    columns: tuple[int, int, int],
    crop: tuple[int, int],
    fill: np.ndarray | int,
    resample: Image.Resampling,
) -> np.ndarray:
    """What a resize to ``scaled`` followed by a crop would give, without resizing more than the crop."""
    (top, into_top, height), (left, into_left, width) = rows, columns
    if array.shape[:2] == scaled:
        piece = array[top : top + height, left : left + width]
    else:
        down, across = array.shape[0] / scaled[0], array.shape[1] / scaled[1]
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        # Rounding may push the box an ulp over the border, which Pillow refuses.
        box = (box[0], box[1], min(box[2], array.shape[1]), min(box[3], array.shape[0]))
        piece = np.asarray(Image.fromarray(array).resize((width, height), resample, box=box))
    if piece.shape[:2] == crop:
        return piece
    canvas = np.empty((*crop, *array.shape[2:]), np.uint8)
    canvas[:] = fill
    canvas[into_top : into_top + height, into_left : into_left + width] = piece
    return canvas
