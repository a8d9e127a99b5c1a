"""A run's data sets, and the batches of them that its stages train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastuda.data.batch import Batch
from fastuda.data.build import build_dataset
from fastuda.data.cache import ImageCache
from fastuda.data.classes import IGNORE, class_set
from fastuda.data.errors import DataError, UnreadableFile
from fastuda.data.files import read_label_ids, same_aspect
from fastuda.data.loader import auto_workers, loader
from fastuda.data.photometric import Photometric, standardise
from fastuda.data.stream import EvalStream, TrainStream, image_weights
from fastuda.methods import find_method
from fastuda.methods.protocol import Stage, View
from fastuda.ranks import rank, world
from fastuda.train.checkpoint import write_atomically
from fastuda.train.config import Config
from fastuda.train.step import Batches

DOMAINS = ("source", "target")


class Inputs:
    """Source, target and validation data of a run, and the pseudo labels that it makes."""

    def __init__(self, config: Config, device: torch.device, pseudo_labels: Path) -> None:
        self.config, self.device, self.pseudo_labels = config, device, pseudo_labels
        data = config.data
        if data.target.labelled:
            raise ValueError("data.target.labelled must be false: labels of target training images are never read")
        self.classes = class_set(data.classes)
        self.workers = auto_workers(data.workers, device)
        self.datasets, self.caches = {}, {}
        self._weights: dict[str, np.ndarray] = {}
        for name in (*DOMAINS, "validation"):
            wanted = getattr(data, name)
            if wanted.kind == "none":
                continue
            if name == "source" and find_method(config.method).labelled_domain == "target":
                wanted = replace(data.target, labelled=True)
            self.datasets[name] = build_dataset(wanted, self.classes, data.root)
            self.caches[name] = ImageCache(self.datasets[name], wanted.size, data.cache_mib / 3)

        if self.validated:
            self._check_validation()

    @property
    def validated(self) -> bool:
        """Whether there is a labelled validation split to score predictions on."""
        return "validation" in self.datasets

    def _check_validation(self) -> None:
        """Raises DataError if no pixel of the validation split is labelled; stops at the first that is."""
        dataset = self.datasets["validation"]
        for index in range(len(dataset)):
            if (dataset.label(index) != IGNORE).any():
                return
        raise DataError(
            f"all pixels of the {len(dataset)} validation labels are ignored, such as those of {dataset.name(0)}: "
            "data.validation.ids does not fit them"
        )

    def batches(
        self,
        stage: Stage,
        number: int,
        start: int,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Iterator[Batches]:
        """The batches of a run's stage ``number`` from iteration ``start`` on, as its networks see them.

        Each is a function of the seed and its place alone: a second iterator gives the same.  waiting: a context that
        is entered while the next images are waited for.
        """
        loaders = [self._loader(domain, stage, number, start) for domain in DOMAINS]
        return self._batches(stage, number, start, loaders, waiting)

    def _batches(self, stage, number, start, loaders, waiting) -> Iterator[Batches]:
        views = (stage.source, stage.target)
        accumulate = self.config.accumulate
        for place in range(start * accumulate, stage.iterations * accumulate):
            with waiting():
                loaded = [next(loader) if loader else None for loader in loaders]
            keys = [(number, place, domain) for domain in range(len(DOMAINS))]
            yield tuple(map(self.on_device, loaded, views, keys))

    def _loader(self, domain: str, stage: Stage, number: int, start: int) -> Iterator[Batch] | None:
        view: View | None = getattr(stage, domain)
        if view is None:
            return None
        dataset, cache = self.datasets[domain], self.caches[domain]
        stream = TrainStream(
            dataset,
            size=cache.size,
            batch=view.batch // world(),
            rank=rank(),
            world=world(),
            seed=self.config.seed,
            stage=number,
            domain=DOMAINS.index(domain),
            augment=view.augment,
            weights=self._image_weights(domain) if view.rare_first else None,
            labels=self.read_pseudo_labels if view.labels == "pseudo" else None,
            scores=self.read_scores if view.scores else None,
            cache=cache,
        )
        steps = self.config.accumulate
        return loader(stream, start * steps, stage.iterations * steps, self.workers)

    def _image_weights(self, domain: str) -> np.ndarray:
        # Every label is read for them, so they are computed once, not in each stage.
        if domain not in self._weights:
            self._weights[domain] = image_weights(self.datasets[domain], self.caches[domain])
        return self._weights[domain]

    def check_split(self, stages: list[Stage]) -> None:
        """Raises ValueError for a batch that cannot be split over the ranks, or whose images differ in size."""
        for stage in (stage for stage in stages if stage.iterations and world() > 1):
            for domain in DOMAINS:
                view: View | None = getattr(stage, domain)
                if view is None:
                    continue
                if view.batch % world():
                    raise ValueError(
                        f"the batch of {view.batch} images of stage {stage.name} cannot be split evenly over "
                        f"{world()} processes: change the schedule's batch or their number"
                    )
                if self.caches[domain].size == (0, 0) and view.augment.crop == (0, 0):
                    raise ValueError(
                        f"several processes need {domain} images of one size: set data.{domain}.size or a crop"
                    )

    def on_device(self, batch: Batch | None, view: View | None, key: tuple[int, ...]) -> Batch | None:
        """The batch on the device, photometrically augmented with draws from ``key`` and standardised."""
        if batch is None:
            return None
        batch = batch.to(self.device)
        first = rank() * len(batch.images)
        images = Photometric(view.augment)(batch.images, key=(self.config.seed, *key), first=first)
        return replace(batch, images=self._layout(images))

    def plain(self, domain: str) -> Iterator[Batch]:
        """Every training sample once, in order, not augmented; labels, if the domain has them, at the image's size.

        Of several ranks each sees every world-th batch, the same batches as a single one.
        """
        stream = _InOrder(self.caches[domain], self.config.pass_batch)
        for item in loader(stream, 0, len(stream), self.workers):
            item = item.to(self.device)
            yield replace(item, images=self._layout(standardise(item.images)))

    def _layout(self, images: torch.Tensor) -> torch.Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.config.model.channels_last else images

    def validation_stream(self) -> EvalStream:
        """Images and labels of the validation split. Raises DataError where the task has none."""
        if not self.validated:
            raise DataError("the task has no validation data set, so there is nothing to score: set data.validation")
        return EvalStream(self.datasets["validation"], self.caches["validation"].size, self.caches["validation"])

    def save_pseudo_labels(self, index: int, labels: np.ndarray) -> None:
        """Write one map of class indices (H, W) uint8 as PNG."""
        self.pseudo_labels.mkdir(exist_ok=True)
        write_atomically(self._pseudo_label(index), lambda file: Image.fromarray(labels).save(file, "png"))

    def read_pseudo_labels(self, index: int) -> np.ndarray:
        """What ``save_pseudo_labels`` wrote; DataError names a file that is missing, damaged or of other data."""
        path = self._pseudo_label(index)
        labels = read_label_ids(path)
        height, width = self._target_size(index)
        if labels.shape != (height, width):
            raise DataError(
                f"the pseudo label {path} is {labels.shape[1]}x{labels.shape[0]} pixels (width x height), "
                f"but the target image {self.datasets['target'].name(index)} is {width}x{height}"
            )
        outside = labels[((labels < 0) | (labels >= self.classes.num_classes)) & (labels != IGNORE)]
        if outside.size:
            raise DataError(
                f"the pseudo label {path} holds the class {outside[0]}, which is none of the "
                f"{self.classes.num_classes} of this run"
            )
        return labels.astype(np.uint8, copy=False)

    def save_scores(self, index: int, scores: np.ndarray) -> None:
        """Write the scores (K, h, w) float16 of one target image."""
        self.pseudo_labels.mkdir(exist_ok=True)
        write_atomically(self._scores(index), lambda file: np.save(file, scores))

    def read_scores(self, index: int) -> np.ndarray:
        """What ``save_scores`` wrote; DataError names a file that is missing, damaged or of other data."""
        path = self._scores(index)
        try:
            scores = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            raise UnreadableFile(f"the scores {path} do not exist") from None
        except Exception as error:  # NumPy parses the header as Python: a damaged one can raise any exception
            raise UnreadableFile(f"the scores {path} cannot be read: {' '.join(str(error).split())}") from error
        classes = self.classes.num_classes
        if scores.ndim != 3 or len(scores) != classes or scores.dtype != np.float16:
            raise UnreadableFile(
                f"the scores {path} are {scores.dtype} {scores.shape}, not float16 of {classes} classes"
            )
        height, width = self._target_size(index)
        if not same_aspect((height, width), scores.shape[1:], slack=1):
            raise DataError(
                f"the scores {path} are a grid of {scores.shape[2]}x{scores.shape[1]} (width x height), "
                f"which does not fit the target image {self.datasets['target'].name(index)} of {width}x{height}"
            )
        return scores

    def check_prepared(self, stage: Stage) -> None:
        """Read all labels or scores that ``stage``'s preparation saved, before a resumed run continues the stage.

        DataError names the first file that is missing, damaged or of another data set.
        """
        view: View | None = stage.target
        images = len(self.datasets["target"])
        readers = {self._pseudo_label: self.read_pseudo_labels} if view and view.labels == "pseudo" else {}
        readers |= {self._scores: self.read_scores} if view and view.scores else {}
        for path, read in readers.items():
            if path(images).exists():
                raise DataError(
                    f"{path(images)} is of another data set: the target has {images} images, numbered from 0"
                )
            shape = read(0).shape
            for index in range(1, images):
                # Labels have the size of their image. Scores of images of one size have the network's resolution.
                if (other := read(index).shape) != shape and self.caches["target"].size != (0, 0):
                    raise DataError(f"{path(index)} is of another network: {other} where {path(0)} is {shape}")

    def _target_size(self, index: int) -> tuple[int, int]:
        size = self.caches["target"].size
        return self.datasets["target"].image_size(index) if size == (0, 0) else size

    def _scores(self, index: int) -> Path:
        return self.pseudo_labels / f"{index:06d}.npy"

    def _pseudo_label(self, index: int) -> Path:
        return self.pseudo_labels / f"{index:06d}.png"


class _InOrder:
    """This rank's batches of a data set in the data set's order; the last one may be smaller."""

    def __init__(self, cache: ImageCache, batch: int) -> None:
        self.cache = cache
        # Images of native size may differ in size, so they cannot share a batch.
        self.batch = 1 if cache.size == (0, 0) else batch
        self.numbers = range(rank(), -(-len(cache.dataset) // self.batch), world())

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Batch:
        number = self.numbers[place]
        indices = range(number * self.batch, min((number + 1) * self.batch, len(self.cache.dataset)))
        images, labels = zip(*(self.cache.load(index) for index in indices), strict=True)
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        labels = None if labels[0] is None else torch.from_numpy(np.stack(labels))
        return Batch(stacked, labels, torch.tensor(indices))
