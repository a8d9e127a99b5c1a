"""The picture of README: photo, source-only network, adapted network and truth of a few validation images.

    python benchmarks/train/picture.py --work runs/picture --output docs/images/adaptation.png

trains the default task once, with the settings and seed of the table of results: the network after the warm-up is the
source-only one, that at the end the adapted one.  The images are not chosen by eye: they are those at the quartiles of
what adaptation gains in pixel accuracy, the smallest gain first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from warm_up import hand_over, warm_up

from fastuda.train.config import parse
from fastuda.train.loop import train
from fastuda.train.pictures import colour, save_png
from fastuda.train.restore import Restored, restore
from fastuda.train.scoring import predict_labels

ROWS = 3
GAP = 2  # white pixels between panels


def trained(method: str, seed: int, work: Path) -> tuple[Path, Path]:
    """Directories of the warm-up and of the whole run that starts from it; what is there already is not repeated."""
    shown = ["--method", method, "--seed", str(seed), "--amp"]
    warm, whole = work / "source_only", work / "adapted"
    warm_up([*shown, "--work-dir", str(warm)])
    if not (whole / "result.json").exists():
        hand_over(warm, [*shown, "--work-dir", str(whole)])
        train(parse(["--work-dir", str(whole), "--resume"]))
    return warm, whole


@torch.no_grad()
def labels(restored: Restored, images: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Class indices (H, W) of one image (1, 3, h, w)."""
    return predict_labels(restored.method, images, size, restored.precision)[0].cpu().numpy()


def accuracy(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> float:
    """Share of the labelled pixels that are right; 0 where none is labelled."""
    valid = truth < num_classes
    return float((prediction == truth)[valid].mean()) if valid.any() else 0.0


def panels(before: Restored, after: Restored) -> list[tuple[float, list[np.ndarray]]]:
    """(gain in accuracy, [photo, source-only, adapted, truth] as RGB (H, W, 3)) of every validation image."""
    stream, classes = after.inputs.validation_stream(), after.classes
    found = []
    for number in range(len(stream)):
        batch = stream[number].to(after.device)
        truth = batch.labels[0].cpu().numpy()
        maps = [labels(run, batch.images, truth.shape) for run in (before, after)]
        gain = np.subtract(*(accuracy(found, truth, classes.num_classes) for found in maps[::-1]))
        photo = batch.images[0].permute(1, 2, 0).cpu().numpy()
        found.append((float(gain), [photo, *(colour(found, classes) for found in (*maps, truth))]))
    return found


def at_quartiles(found: list[tuple[float, list[np.ndarray]]], count: int) -> list[list[np.ndarray]]:
    """The panels at evenly spread ranks of the gain, without its extremes."""
    order = sorted(range(len(found)), key=lambda number: found[number][0])
    ranks = [round(len(order) * (rank + 1) / (count + 1)) for rank in range(count)]
    return [found[order[min(rank, len(order) - 1)]][1] for rank in ranks]


def sheet(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Rows of panels of one size as one RGB picture with white gaps."""
    height, width, _ = rows[0][0].shape
    picture = np.full((len(rows) * (height + GAP) - GAP, len(rows[0]) * (width + GAP) - GAP, 3), 255, np.uint8)
    for down, row in enumerate(rows):
        for across, panel in enumerate(row):
            top, left = down * (height + GAP), across * (width + GAP)
            picture[top : top + height, left : left + width] = panel
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="sdca")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/picture"), help="directory of the run")
    parser.add_argument("--output", type=Path, default=Path("docs/images/adaptation.png"))
    options = parser.parse_args()
    warm, whole = trained(options.method, options.seed, options.work)
    rows = at_quartiles(panels(restore(warm), restore(whole)), ROWS)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_png(options.output, sheet(rows))


if __name__ == "__main__":
    main()
