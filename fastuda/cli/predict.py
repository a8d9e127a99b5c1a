"""Label maps of your own photos: ``python -m fastuda.predict RUN PATH... --output DIR``.

PATH is an image file, a directory (all images below it) or a quoted pattern such as 'frames/*.jpg'. The output holds
ids/NAME.png (class ids), colour/NAME.png (the photo under the classes' colours), confidence/NAME.png with --confidence,
legend.png and manifest.json. The run's directory is all that is needed: no data set, and no other file.
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from fastuda.cli.evaluate import add_window
from fastuda.data.augment import resize_image
from fastuda.data.classes import ClassSet
from fastuda.data.errors import DataError
from fastuda.data.files import read_image
from fastuda.data.listing import image_files
from fastuda.labels import IGNORE
from fastuda.nn.windows import Size
from fastuda.train.checkpoint import write_json
from fastuda.train.pictures import colour, save_png
from fastuda.train.restore import one_sentence, restore
from fastuda.train.scoring import predict_labels

OVERLAY = 0.5  # share of the classes' colours over the photo
FOLDERS = ("ids", "colour", "confidence")  # of the output


class Photo(NamedTuple):
    """An input image, and the path of its results below each of the output's folders, without a suffix."""

    path: Path
    name: str


def legend(classes: ClassSet) -> np.ndarray:
    """A picture of the classes' names beside their colours and ids, (H, W, 3) uint8."""
    line, lines = 18, [f"{k}  {name}" for k, name in enumerate(classes.names)]
    width = 40 + 8 * max(map(len, lines))
    picture = Image.new("RGB", (width, line * len(lines) + 6), "white")
    draw = ImageDraw.Draw(picture)
    for k, text in enumerate(lines):
        draw.rectangle((4, line * k + 5, 26, line * k + 18), fill=tuple(classes.palette[k].tolist()), outline="black")
        draw.text((32, line * k + 5), text, fill="black")
    return np.asarray(picture)


def find_photos(given: Sequence[str], output: Path) -> list[Photo]:
    """The images that paths, directories and patterns name, each with a unique name for its results.

    The name is the image's path below the given directory; if two are equal, suffixes and then the names of directories
    above are added until they differ.  Results of earlier calls below ``output`` are skipped.  Raises DataError for a
    path, directory or pattern without an image.
    """
    results = tuple((output / folder).resolve() for folder in FOLDERS)
    found: dict[Path, Path] = {}  # real path -> path below what was given
    for item in given:
        path = Path(item)
        if path.is_dir():
            inside = [(image, image.relative_to(path)) for image in image_files(path, recursive=True)]
        elif path.exists() or not glob.has_magic(item):
            inside = [(path, Path(path.name))]
        else:
            matches = [Path(name) for name in sorted(glob.glob(item, recursive=True)) if os.path.isfile(name)]
            inside = [(match, Path(match.name)) for match in matches]
        inside = [(image, below) for image, below in inside if not any(map(image.resolve().is_relative_to, results))]
        if not inside:
            raise DataError(f"there is no image in {item}")
        for image, below in inside:
            found.setdefault(image.absolute(), below)
    return _named(found)


def _named(found: dict[Path, Path]) -> list[Photo]:
    names = {path: below.with_suffix("").as_posix() for path, below in found.items()}
    for longer in range(1, max(len(path.parts) for path in found) + 1):
        taken: dict[str, list[Path]] = {}
        for path, name in names.items():
            taken.setdefault(name.lower(), []).append(path)
        twins = [path for paths in taken.values() if len(paths) > 1 for path in paths]
        if not twins:
            break
        for path in twins:  # first the suffix is added, then one more directory each time
            names[path] = Path(*path.parts[1:][-longer:]).as_posix()
    return [Photo(path, names[path]) for path in found]


def predict_photos(
    restored: Any, photos: Sequence[Photo], output: Path, window: Size | None = None, confidence: bool = False
) -> None:
    """Write label maps, overlays and, on request, confidences of all photos, and a manifest of them.

    Raises OSError if ``output`` already holds results: nothing is overwritten.
    """
    classes, size = restored.classes, restored.image_size
    manifest: dict[str, Any] = {
        "classes": list(classes.names),
        "colours": classes.palette.tolist(),
        "ignored": IGNORE,
        "run": restored.description(),
        "images": [],
    }
    if held := [name for name in (*FOLDERS, "legend.png", "manifest.json") if (output / name).exists()]:
        raise OSError(f"{output} already holds {held[0]}, which would be overwritten: choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    folders = FOLDERS if confidence else FOLDERS[:2]
    for photo in _progress(photos):
        pixels = read_image(photo.path)
        images = torch.from_numpy(resize_image(pixels, size).transpose(2, 0, 1).copy())[None].to(restored.device)
        labels, confidences = predict_labels(
            restored.method, images, pixels.shape[:2], restored.precision, window, confidence=True
        )
        labels, files = labels[0].cpu().numpy(), {}
        blend = (1 - OVERLAY) * pixels + OVERLAY * colour(labels, classes)
        pictures = {"ids": labels, "colour": blend.round().astype(np.uint8)}
        if confidence:
            pictures["confidence"] = (confidences[0].float().clamp(0, 1) * 255).round().byte().cpu().numpy()
        for folder in folders:
            files[folder] = f"{folder}/{photo.name}.png"
            (output / files[folder]).parent.mkdir(parents=True, exist_ok=True)
            save_png(output / files[folder], pictures[folder])
        shares = np.bincount(labels.ravel(), minlength=256)[: classes.num_classes] / labels.size
        manifest["images"].append(
            {
                "image": str(photo.path),
                "size": list(labels.shape),
                **files,
                "mean_confidence": round(float(confidences.float().mean()), 4),
                "shares": {name: round(float(share), 4) for name, share in zip(classes.names, shares, strict=True)},
            }
        )
    save_png(output / "legend.png", legend(classes))
    write_json(output / "manifest.json", manifest)


def _progress(photos: Sequence[Photo]):
    from rich.progress import track

    return track(photos, description="images", disable=not sys.stdout.isatty())


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fastuda.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work_dir", type=Path, metavar="RUN", help="directory of a training run")
    parser.add_argument("images", nargs="+", metavar="PATH", help="image files, directories or quoted patterns")
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="directory of the results")
    parser.add_argument("--confidence", action="store_true", help="also write confidences: 255 is certain")
    add_window(parser)
    options = parser.parse_args(arguments)
    with one_sentence():
        photos = find_photos(options.images, options.output)
        restored = restore(options.work_dir)
        start = time.monotonic()
        predict_photos(restored, photos, options.output, options.window, options.confidence)
        rate = len(photos) / max(time.monotonic() - start, 1e-9)
        print(f"{options.output}: {len(photos)} images, {rate:.1f} images/s; see manifest.json and legend.png there")
