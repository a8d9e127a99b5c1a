"""Decoding of image and label files."""

from __future__ import annotations

import struct
from pathlib import Path

import kornia_rs
import numpy as np
from PIL import Image

from fastuda.data.errors import DataError, UnreadableFile

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

# What Pillow raises for broken files of the formats above.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises UnreadableFile."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except _BROKEN as error:
        raise _unreadable("image", path, error) from None


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels, from the file's header only. Raises UnreadableFile."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except _BROKEN as error:
        raise _unreadable("image", path, error) from None


def same_aspect(size: tuple[int, int], scaled: tuple[int, int], slack: int) -> bool:
    """Whether ``scaled`` is ``size`` times one factor, but for rounding of each side by up to ``slack`` pixels."""
    factors = [((new - slack) / old, (new + slack) / old) for old, new in zip(size, scaled, strict=True)]
    return max(low for low, _ in factors) <= min(high for _, high in factors)


def read_label_ids(path: Path) -> np.ndarray:
    """(H, W) uint8, uint16 or int32 label ids as stored: grey values, palette indices, or the red channel of a 16-bit
    colour PNG (SYNTHIA).

    Raises UnreadableFile, and DataError for an 8-bit colour image, which is a drawing of labels and not labels.
    """
    try:
        if _is_16_bit_colour(path):
            return _red_channel(path)
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
                raise DataError(f"the label {path} is a colour image ({image.mode}), not a map of ids")
            ids = np.array(image)
    except DataError:
        raise
    except _BROKEN as error:
        raise _unreadable("label", path, error) from None
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def _is_16_bit_colour(path: Path) -> bool:
    with open(path, "rb") as file:
        header = file.read(26)
    return header.startswith(b"\x89PNG\r\n\x1a\n") and len(header) == 26 and header[24] == 16 and header[25] in (2, 6)


def _red_channel(path: Path) -> np.ndarray:
    # Pillow would reduce each channel to its high byte: every SYNTHIA class id would become 0.
    try:
        return np.ascontiguousarray(kornia_rs.io.read_image(str(path))[..., 0])
    except Exception as error:  # kornia-rs raises bare Exception for whatever does not decode
        raise _unreadable("label", path, error) from None


def _unreadable(what: str, path: Path, error: Exception) -> UnreadableFile:
    if isinstance(error, FileNotFoundError):
        return UnreadableFile(f"the {what} {path} does not exist")
    reason = getattr(error, "strerror", None) or str(error).strip().rstrip(".") or type(error).__name__
    if str(path) in reason:
        reason = "it is not an image file"
    return UnreadableFile(f"the {what} {path} cannot be read: {reason}")
