"""Photos as a viewer shows them, labels exactly as they were stored, and files that are neither."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from fastuda.data.build import build_dataset
from fastuda.data.classes import class_set
from fastuda.data.config import DatasetConfig
from fastuda.data.files import image_size, label_size, read_image, read_label_ids

GRADIENT = np.linspace(0, 255, 16 * 24).reshape(16, 24).astype(np.uint8)
IDS = np.arange(16 * 24, dtype=np.uint8).reshape(16, 24) % 16


def saved(path, image, **options):
    image.save(path, **options)
    return path


def test_every_orientation_is_read_upright(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(tmp_path / f"{orientation}.png", Image.fromarray(colours), exif=exif)
        shown = np.array(ImageOps.exif_transpose(Image.open(path)))
        assert np.array_equal(read_image(path), shown), orientation
        assert image_size(path) == shown.shape[:2], orientation


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "bmp", "gif", "ppm", "jp2", "avif"])
def test_formats(tmp_path, suffix):
    path = saved(tmp_path / f"photo.{suffix}", Image.fromarray(GRADIENT).convert("RGB"))
    assert np.abs(read_image(path).astype(int) - GRADIENT[..., None]).max() <= 12  # some of them are lossy
    assert image_size(path) == (16, 24)


def test_modes_and_depths(tmp_path):
    grey = Image.fromarray(GRADIENT)
    cases = {
        "sixteen bits": Image.fromarray(GRADIENT.astype(np.uint16) * 257),
        "opaque": Image.merge("RGBA", (grey, grey, grey, Image.new("L", grey.size, 255))),
        "grey": grey,
        "palette": grey.convert("P"),
    }
    for name, image in cases.items():
        read = read_image(saved(tmp_path / f"{name}.png", image))
        assert np.array_equal(read, GRADIENT[..., None].repeat(3, 2)), name
    cmyk = read_image(saved(tmp_path / "cmyk.tif", Image.merge("RGB", (grey, grey, grey)).convert("CMYK")))
    assert np.array_equal(cmyk, GRADIENT[..., None].repeat(3, 2))
    hidden = Image.merge("RGBA", (grey, grey, grey, Image.new("L", grey.size, 0)))
    assert (read_image(saved(tmp_path / "hidden.png", hidden)) == 255).all(), "what is transparent is shown on white"
    half = np.zeros((2, 2, 4), np.uint8) + np.array([0, 0, 0, 128], np.uint8)
    assert np.abs(read_image(saved(tmp_path / "half.png", Image.fromarray(half))).astype(int) - 127).max() <= 1
    with pytest.raises(ValueError, match="fractions of an unstated range"):
        read_image(saved(tmp_path / "float.tif", Image.fromarray(GRADIENT / np.float32(255))))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("palette", [False, True])
def test_label_ids_of_any_depth_are_as_stored(tmp_path, written_png, bits, palette):
    ids = IDS % (1 << min(bits, 4))
    rows = [np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].reshape(-1) for row in ids]
    packed = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    colours = bytes(255 - i % 256 for i in range(3 << bits)) if palette else b""
    path = tmp_path / "label.png"
    path.write_bytes(written_png(*ids.shape, bits, 3 if palette else 0, packed, colours))
    assert np.array_equal(read_label_ids(path), ids) and label_size(path) == ids.shape


def test_label_files_of_other_lossless_formats(tmp_path):
    ways = {"bmp": {}, "tif": {"compression": "tiff_lzw"}, "gif": {}, "webp": {"lossless": True}}
    for suffix, options in ways.items():
        path = saved(tmp_path / f"label.{suffix}", Image.fromarray(IDS), **options)
        assert np.array_equal(read_label_ids(path), IDS), suffix
    wide = IDS.astype(np.uint16) * 300
    for suffix in ("png", "tif"):
        assert np.array_equal(read_label_ids(saved(tmp_path / f"wide.{suffix}", Image.fromarray(wide))), wide)
    equal = Image.fromarray(IDS[..., None].repeat(3, 2))
    assert np.array_equal(read_label_ids(saved(tmp_path / "equal.png", equal)), IDS), "grey values stored as RGB"


@pytest.mark.parametrize("suffix, options", [("jpg", {}), ("webp", {}), ("tif", {"compression": "jpeg"}), ("jp2", {})])
def test_lossy_labels_are_refused(tmp_path, suffix, options):
    path = saved(tmp_path / f"label.{suffix}", Image.fromarray(IDS).convert("RGB"), **options)
    with pytest.raises(ValueError, match=rf"label\.{suffix} is a lossy .*store labels as PNG"):
        read_label_ids(path)


def test_channels_and_colours(tmp_path):
    pixels = np.stack([IDS, IDS[::-1], IDS * 3, np.full_like(IDS, 7)], 2)
    path = saved(tmp_path / "carla.png", Image.fromarray(pixels))
    for k, channel in enumerate(("red", "green", "blue")):
        assert np.array_equal(read_label_ids(path, channel), pixels[..., k])
    whole = pixels.astype(np.int64)
    assert np.array_equal(read_label_ids(path, "colour"), whole[..., 0] * 65536 + whole[..., 1] * 256 + whole[..., 2])
    with pytest.raises(ValueError, match="colour image .* which of red, green, blue or colour"):
        read_label_ids(path)
    with pytest.raises(ValueError, match="has no colours"):
        read_label_ids(saved(tmp_path / "grey.png", Image.fromarray(IDS)), "red")


def test_nothing_but_regular_image_files_is_opened(tmp_path, monkeypatch):
    fifo = tmp_path / "fifo.png"
    os.mkfifo(fifo)
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    postscript = tmp_path / "photo.png"
    postscript.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n")
    for read in (read_image, image_size, read_label_ids, label_size):
        with pytest.raises(ValueError, match="fifo.png is not a regular file|fifo.png cannot be read"):
            read(fifo)
        with pytest.raises(ValueError, match="it is not an image file"):
            read(postscript)
    assert not (tmp_path / "started").exists(), "a program was started on a file of the data set"


def test_a_label_that_unpacks_to_gigabytes_is_refused_by_its_header(tmp_path, files, written_png):
    files.image("images/a.png")
    path = tmp_path / "labels/a.png"
    path.parent.mkdir()
    path.write_bytes(written_png(30_000, 30_000, 16, 2, bytes(30_000 * 6 + 1)))
    with pytest.raises(ValueError, match="decompression bomb"):
        read_label_ids(path)
    dataset = build_dataset(DatasetConfig(kind="folder", root=str(tmp_path)), class_set("cityscapes19"))
    with pytest.raises(ValueError, match="labels/a.png"):
        dataset.label(0)


def test_a_turned_photo_and_its_label_lie_on_each_other(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :24] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "images/a.png", exif=exif)
    shown = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "images/a.png")))
    Image.fromarray((shown[..., 0] > 128).astype(np.uint8)).save(tmp_path / "labels/a.png")
    data = build_dataset(DatasetConfig(kind="folder", root=str(tmp_path)), class_set("cityscapes19"))
    assert np.array_equal(data.image(0)[..., 0] > 128, data.label(0) == 1)
