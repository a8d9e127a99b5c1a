"""Photo, prediction, truth and error of a few images: computed where the data are, else those that the run saved."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastuda.data.classes import IGNORE, ClassSet
from fastuda.metrics.confusion import count_pairs
from fastuda.report.html import Html, tag
from fastuda.train.pictures import colour
from fastuda.train.restore import Restored
from fastuda.train.scoring import predict_labels

EACH = 2  # images shown of the best, the median and the worst
WIDEST = 480  # pixels of a panel
WRONG = (214, 39, 40)


@dataclass(frozen=True)
class Shown:
    """One image: a line about it and its panels, titles and RGB pixels (H, W, 3) uint8."""

    caption: str
    panels: list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Pictures:
    """What the page shows of images.  confusion: pixels (K, K + 1) by true and predicted class, last column none."""

    note: str
    shown: list[Shown] = field(default_factory=list)
    confusion: list[list[int]] | None = None


def of_validation(restored: Restored, numbers: Iterable[int] | None = None) -> Pictures:
    """Predict the whole validation split: its confusion matrix, and the best, the median and the worst images.

    numbers: of all images, from an iterator that shows its progress.  Raises ValueError or OSError where the data
    are not as the run's configuration says, such as on another machine.
    """
    stream, classes = restored.inputs.validation_stream(), restored.classes
    confusion = torch.zeros(classes.num_classes, classes.num_classes + 1, dtype=torch.int64)
    scores: list[tuple[float, int]] = []
    for number in range(len(stream)) if numbers is None else numbers:
        _, prediction, truth = _predicted(restored, number)
        pairs = count_pairs(torch.from_numpy(prediction), torch.from_numpy(truth), classes.num_classes)
        confusion += pairs
        if (labelled := int(pairs.sum())) > 0:
            scores.append((int(pairs.diagonal().sum()) / labelled, number))
    shown = []
    for rank, score, number in _chosen(scores):
        photo, prediction, truth = _predicted(restored, number)
        name = restored.inputs.datasets["validation"].name(number)
        panels = panels_of(photo, prediction, truth, classes)
        shown.append(Shown(f"{rank}: {name}, {score:.1%} of its labelled pixels are right", panels))
    note = (
        f"Of all {len(stream)} validation images, predicted by the weights of checkpoint.pt: those with the largest, "
        "median and smallest share of labelled pixels that are right."
    )
    return Pictures(note, shown, confusion.tolist())


def of_target(restored: Restored, count: int = 4) -> Pictures:
    """Photos of the target with their prediction and its confidence, for a run without labels to compare with."""
    dataset, cache, classes = restored.inputs.datasets["target"], restored.inputs.caches["target"], restored.classes
    shown = []
    for number in sorted({round(i * (len(dataset) - 1) / max(count - 1, 1)) for i in range(count)}):
        photo, _ = cache.load(number)
        images = torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1)))[None].to(restored.device)
        found = predict_labels(restored.method, images, photo.shape[:2], restored.precision, confidence=True)
        prediction = found.label[0].cpu().numpy()
        sure = (found.confidence[0].float().clamp(0, 1) * 255).round().byte().cpu().numpy()
        panels = [("photo", photo), ("prediction", colour(prediction, classes))]
        panels.append(("confidence, white is certain", np.repeat(sure[..., None], 3, axis=2)))
        shown.append(Shown(dataset.name(number), [(title, reduced(pixels)) for title, pixels in panels]))
    return Pictures("The run has no labelled validation images, so these are target images without a truth.", shown)


def saved(paths: Sequence[Path]) -> Pictures:
    """The comparisons that the run saved at its end; an error map is drawn from their colours."""
    shown = []
    for path in paths:
        with Image.open(path) as file:
            pixels = np.asarray(file.convert("RGB"))
        if pixels.shape[1] % 3:
            raise ValueError(f"{path} is no comparison of a run: its width is not that of three panels")
        photo, prediction, truth = np.split(pixels, 3, axis=1)
        labelled = truth.any(axis=2)
        wrong = labelled & (prediction != truth).any(axis=2)
        right = 1 - wrong.sum() / max(labelled.sum(), 1)
        panels = [("photo", photo), ("prediction", prediction), ("truth", truth)]
        panels.append(("error", errors(photo, wrong, labelled)))
        reduced_panels = [(title, reduced(panel)) for title, panel in panels]
        shown.append(Shown(f"{path.name}: {right:.1%} of its labelled pixels are right", reduced_panels))
    return Pictures("Pictures that the run saved at its end, spread evenly over the validation images.", shown)


def _predicted(restored: Restored, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photo (h, w, 3), prediction (H, W) and truth (H, W) of one validation image."""
    batch = restored.inputs.validation_stream()[number]
    truth = batch.labels[0].numpy()
    images = batch.images.to(restored.device)
    prediction = predict_labels(restored.method, images, truth.shape, restored.precision)[0].cpu().numpy()
    return batch.images[0].permute(1, 2, 0).numpy(), prediction, truth


def _chosen(scores: list[tuple[float, int]]) -> list[tuple[str, float, int]]:
    """(rank, score, number) of the best, median and worst images, each at most once."""
    order = sorted(scores, reverse=True)
    middle = max(0, (len(order) - EACH) // 2)
    groups = {"best": order[:EACH], "median": order[middle : middle + EACH], "worst": order[-EACH:]}
    found: dict[int, tuple[str, float, int]] = {}
    for rank in ("best", "worst", "median"):  # where there are few, one of the ends is no median
        for score, number in groups[rank]:
            found.setdefault(number, (rank, score, number))
    return sorted(found.values(), key=lambda item: -item[1])


def panels_of(photo: np.ndarray, prediction: np.ndarray, truth: np.ndarray, classes: ClassSet) -> list:
    """Titles and pixels of the four panels of an image, at the labels' size or reduced."""
    height, width = truth.shape
    photo = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))
    labelled = (truth < classes.num_classes) & (truth != IGNORE)
    panels = [("photo", photo), ("prediction", colour(prediction, classes)), ("truth", colour(truth, classes))]
    panels.append(("error", errors(photo, labelled & (prediction != truth), labelled)))
    return [(title, reduced(pixels)) for title, pixels in panels]


def errors(photo: np.ndarray, wrong: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """A pale grey photo in which wrong pixels are red and pixels without a label black."""
    grey = 160 + photo.mean(axis=2, keepdims=True) * (95 / 255)
    picture = np.repeat(grey, 3, axis=2).round().astype(np.uint8)
    picture[wrong] = WRONG
    picture[~labelled] = 0
    return picture


def reduced(pixels: np.ndarray) -> np.ndarray:
    """The pixels, at most ``WIDEST`` wide: every n-th of a row and a column, so that no colour is mixed."""
    step = -(-pixels.shape[1] // WIDEST)
    return np.ascontiguousarray(pixels[::step, ::step])


def image(title: str, pixels: np.ndarray) -> Html:
    """A picture in the page itself: a photo as JPEG, few colours as PNG."""
    form = {"format": "JPEG", "quality": 85} if title == "photo" else {"format": "PNG", "optimize": True}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **form)
    data = base64.b64encode(buffer.getvalue()).decode()
    source = f"data:image/{form['format'].lower()};base64,{data}"
    return tag("figure", tag("img", src=source, alt=title), tag("figcaption", title))
