"""Decoding of photos, as a person would see them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from fastuda._paths import check_regular
from fastuda.data.errors import DataError, UnreadableFile

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".ppm", ".pgm", ".gif", ".jp2", ".avif")
# Formats that Pillow decodes by itself: without this list it would start Ghostscript for a file that holds PostScript.
Image.init()  # Pillow registers most formats only when it meets a file that the first ones do not fit
FORMATS = tuple(
    name
    for name in ("PNG", "JPEG", "MPO", "TIFF", "WEBP", "BMP", "DIB", "PPM", "GIF", "JPEG2000", "AVIF")
    if name in Image.OPEN
)

# What Pillow raises for broken files of the formats above.
BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, KeyError, OverflowError, ZeroDivisionError, MemoryError,
    struct.error, Image.DecompressionBombError,
)  # fmt: skip
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB as a viewer shows it: turned upright by its EXIF orientation, 16 bits scaled to 8, palette,
    CMYK and grey converted, transparent pixels over white. Raises UnreadableFile."""
    with opened("image", path) as image:
        upright = _UPRIGHT.get(_orientation(image))
        shown = _as_rgb(image)
        return np.array(shown if upright is None else shown.transpose(upright))


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels of what ``read_image`` returns, from the file's header only. Raises UnreadableFile."""
    with opened("image", path) as image:
        lying = _orientation(image) in (5, 6, 7, 8)
        return (image.width, image.height) if lying else (image.height, image.width)


def same_aspect(size: tuple[int, int], scaled: tuple[int, int], slack: int) -> bool:
    """Whether ``scaled`` is ``size`` times one factor, but for rounding of each side by up to ``slack`` pixels."""
    factors = [((new - slack) / old, (new + slack) / old) for old, new in zip(size, scaled, strict=True)]
    return max(low for low, _ in factors) <= min(high for _, high in factors)


@contextmanager
def opened(what: str, path: Path) -> Iterator[Image.Image]:
    """The file opened by Pillow, of a format that Pillow decodes without another program.

    Whatever is wrong with the file, here or while it is decoded, becomes UnreadableFile; a DataError is passed on.
    """
    try:
        check_regular(path)
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except DataError:
        raise
    except BROKEN as error:
        raise unreadable(what, path, error) from None


def unreadable(what: str, path: Path, error: Exception) -> UnreadableFile:
    """One sentence about a file that did not open or decode."""
    if isinstance(error, FileNotFoundError):
        return UnreadableFile(f"the {what} {path} does not exist")
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "it is not an image file"
    return UnreadableFile(f"the {what} {path} cannot be read: {reason.removeprefix(f'{path} ')}")


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except BROKEN:  # the picture itself may be whole, and viewers show it as it is stored
        return 1


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DataError(f"the image {image.filename} holds fractions of an unstated range: store 8 or 16 bits")
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        if layer.getextrema()[3][0] < 255:
            return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        return layer.convert("RGB")
    return image.convert("RGB")


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """uint8 of a map of 16-bit values, white being 65535 as the formats have it."""
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("its values do not fit 16 bits")
    return ((grey.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
