"""Coloured predictions: ``python -m fastuda.predict WORK_DIR IMAGE... --output DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastuda.data.augment import resize_image
from fastuda.data.classes import ClassSet
from fastuda.data.files import read_image
from fastuda.evaluate import add_window, predict_labels
from fastuda.train.checkpoint import write_atomically


def colour(labels: np.ndarray, classes: ClassSet) -> np.ndarray:
    """Class indices (H, W) as RGB (H, W, 3) uint8 in the class set's palette; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: classes.num_classes] = classes.palette
    return table[labels]


def save_comparison(path: Path, image: np.ndarray, panels: list[np.ndarray], classes: ClassSet) -> None:
    """The image (h, w, 3) beside label maps (H, W), each at the maps' size, as one PNG."""
    height, width = panels[0].shape
    photo = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    row = np.concatenate([photo, *(colour(panel, classes) for panel in panels)], axis=1)
    write_atomically(path, lambda file: Image.fromarray(row).save(file, "png"))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    import argparse

    from fastuda.train.restore import one_sentence, restore

    parser = argparse.ArgumentParser(prog="python -m fastuda.predict", description=__doc__)
    parser.add_argument("work_dir", type=Path, help="directory of a training run")
    parser.add_argument("images", type=Path, nargs="+", help="image files")
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="directory of the PNG files")
    add_window(parser)
    options = parser.parse_args(arguments)
    with one_sentence():
        restored = restore(options.work_dir)
        options.output.mkdir(parents=True, exist_ok=True)
        size = restored.inputs.caches["validation"].size
        for path in options.images:
            photo = read_image(path)
            images = torch.from_numpy(resize_image(photo, size).transpose(2, 0, 1).copy())[None].to(restored.device)
            labels = (
                predict_labels(restored.method, images, photo.shape[:2], restored.precision, options.window)[0]
                .cpu()
                .numpy()
            )
            save_comparison(options.output / f"{path.stem}.png", photo, [labels], restored.inputs.classes)
            print(options.output / f"{path.stem}.png")


if __name__ == "__main__":
    sys.exit(main())
