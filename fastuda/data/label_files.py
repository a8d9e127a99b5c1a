"""Decoding of label maps: ids exactly as they were stored, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import kornia_rs
import numpy as np
from PIL import Image

from fastuda.data.errors import DataError
from fastuda.data.image_files import opened, unreadable

Read = Literal["id", "red", "green", "blue", "colour"]
"""Which part of a label file is the id: grey value or palette index ("id"), one channel of a colour, or the colour."""

_CHANNELS = ("red", "green", "blue")
_LOSSLESS = ("PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP")
_LOSSY_TIFF = ("jpeg", "webp", "tiff_jpeg")  # compressions
# Pillow multiplies grey values of 2 and 4 bits so that they fill 0..255; here is by what.
_SPREAD = {2: 85, 4: 17}


def label_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels, from the file's header only. Raises UnreadableFile."""
    with opened("label", path) as image:
        return image.height, image.width


def read_label_ids(path: Path, read: Read = "id") -> np.ndarray:
    """(H, W) uint8, uint16 or int32 label ids as stored.

    read: "id" takes grey values of 1 to 16 bits or palette indices, and the red channel of a 16-bit colour PNG
        (SYNTHIA); "red", "green" and "blue" take that channel of an image of 8 or 16 bits (CARLA writes the id into
        red); "colour" makes an id of the colour, red * 65536 + green * 256 + blue.
    Raises UnreadableFile, and DataError for a file that cannot hold ids: a lossy one, whose codec invents ids along
    every border, or an 8-bit colour image where "id" is asked for, unless its three channels are equal.
    """
    with opened("label", path) as image:
        _refuse_lossy(image, path)
        sixteen_bits = image.format == "PNG" and _is_16_bit_colour(path)
        if not sixteen_bits:
            return _ids(image, path, read)
    if read == "colour":
        raise DataError(f"the label {path} has 16 bits a channel: its colours are no colours of labels, name a channel")
    # Pillow would reduce each channel to its high byte: every SYNTHIA class id would become 0.
    try:
        pixels = kornia_rs.io.read_image(str(path))
    except Exception as error:  # kornia-rs raises bare Exception for whatever does not decode
        raise unreadable("label", path, error) from None
    return np.ascontiguousarray(pixels[..., _CHANNELS.index(read) if read in _CHANNELS else 0])


def _ids(image: Image.Image, path: Path, read: Read) -> np.ndarray:
    if read != "id":
        if image.mode not in ("RGB", "RGBA", "P"):
            raise DataError(f"the label {path} has no colours ({image.mode}), but its {read} is asked for")
        pixels = np.asarray(image.convert("RGB"))
        if read in _CHANNELS:
            return np.ascontiguousarray(pixels[..., _CHANNELS.index(read)])
        return (pixels.astype(np.int32) * (65536, 256, 1)).sum(2, dtype=np.int32)
    if image.mode in ("RGB", "RGBA", "LA", "PA"):
        pixels = np.asarray(image)
        first = pixels[..., 0]
        if image.mode.startswith("RGB") and not (pixels[..., :3] == first[..., None]).all():
            raise DataError(
                f"the label {path} is a colour image ({image.mode}), not a map of ids: "
                "say in its id table which of red, green, blue or colour to read"
            )
        return np.ascontiguousarray(first)
    if image.mode not in ("L", "P", "1", "I", "I;16", "I;16B", "I;16L"):
        raise DataError(f"the label {path} is an image of mode {image.mode}, not a map of ids")
    spread = _SPREAD.get(_grey_bits(image, path), 1)
    ids = np.array(image)
    if ids.dtype == bool:
        return ids.astype(np.uint8)
    ids = ids.astype(ids.dtype.newbyteorder("="), copy=False)
    return ids // spread if spread > 1 else ids


def is_lossy(image: Image.Image, path: Path) -> bool:
    """Whether the codec of an opened file changes pixel values."""
    if image.format == "WEBP":
        return not _is_lossless_webp(path)
    return image.format not in _LOSSLESS or (image.format == "TIFF" and image.info.get("compression") in _LOSSY_TIFF)


def _refuse_lossy(image: Image.Image, path: Path) -> None:
    if is_lossy(image, path):
        raise DataError(
            f"the label {path} is a lossy {image.format} file, whose codec changes ids along every border: "
            "store labels as PNG"
        )


def _is_lossless_webp(path: Path) -> bool:
    """Whether the first picture of a WebP file is a chunk VP8L; a lossy one is VP8."""
    with open(path, "rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8L", b"VP8 "):
                return head[:4] == b"VP8L"
            length = int.from_bytes(head[4:], "little")
            file.seek(length + length % 2, 1)
    return False


def _png_header(path: Path) -> bytes:
    with open(path, "rb") as file:
        header = file.read(26)
    return header if header.startswith(b"\x89PNG\r\n\x1a\n") and len(header) == 26 else bytes(26)


def _is_16_bit_colour(path: Path) -> bool:
    header = _png_header(path)
    return header[24] == 16 and header[25] in (2, 6)


def _grey_bits(image: Image.Image, path: Path) -> int:
    """Bits of a grey value where Pillow spreads them over eight, else 8."""
    if image.mode != "L":
        return 8
    if image.format == "PNG":
        return _png_header(path)[24]
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (8,))
        return bits[0] if isinstance(bits, tuple) else bits
    return 8
