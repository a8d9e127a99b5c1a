"""The figures that the papers report, of a trained run: ``python -m fastuda.analyse WORK_DIR``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fastuda.cli.evaluate import add_roots
from fastuda.data.augment import resize_label
from fastuda.data.build import build_dataset
from fastuda.data.classes import ClassSet
from fastuda.data.dataset import Dataset
from fastuda.data.errors import DataError
from fastuda.data.photometric import standardise
from fastuda.methods.config import SelfTrainingConfig
from fastuda.metrics.confidence import ConfidenceHistogram
from fastuda.metrics.confusion import ConfusionMatrix
from fastuda.metrics.entropy import SelfEntropy
from fastuda.metrics.features import PixelDiscrimination, class_center_distance
from fastuda.metrics.labels import ClassDistribution, PseudoLabelScores, class_shares
from fastuda.metrics.sample import PixelSample
from fastuda.metrics.table import class_table, iou_table
from fastuda.models.output import Output
from fastuda.nn.losses import resize_labels
from fastuda.nn.statistics import ClassStatistics
from fastuda.ops import Moments, pseudo_labels
from fastuda.train.checkpoint import write_atomically, write_json
from fastuda.train.inputs import Inputs
from fastuda.train.meter import LiveLine
from fastuda.train.restore import Restored, one_sentence, restore

SEED = 0  # of the pixels that t-SNE shows, and of t-SNE
MIN_PIXELS = 4  # that t-SNE needs


@torch.no_grad()
def analyse_validation(
    restored: Restored, quantile: float, cap: float, console: Console, sample: PixelSample | None = None
) -> dict[str, Any]:
    """Compare predictions on the target's validation split with its labels, in two passes; plain values for JSON.

    Scores of the predictions at each label's own size (IoU, MPA: CPSL Eq. 16), their self-entropy and class
    distribution; CCD (SPCL Eq. 10) and PDD (SDCA Eq. 25) of the pixel features, with the labels at the features'
    resolution; and scores of pseudo labels by SDCA's Eq. 19: the threshold of a class is the ``quantile`` of its
    confidence on this split, at most ``cap``.  sample: updated with every labelled pixel feature.  Memory does not
    depend on the number of images.  Raises ValueError for an unlabelled split or one without a labelled pixel.
    """
    classes, device, channels = restored.classes, restored.device, restored.method.networks().student.feature_channels
    number = classes.num_classes
    confusion, confidence = ConfusionMatrix(number).to(device), ConfidenceHistogram(number).to(device)
    entropy, statistics = SelfEntropy().to(device), ClassStatistics(number, channels).to(device)
    for truth, output in _validation(restored, "validation 1/2", console):
        confusion.update(pseudo_labels(output.logits, size=truth.shape[-2:]), truth)
        confidence.update(output.logits, size=truth.shape[-2:])
        entropy.update(output.logits)
        labels = resize_labels(truth, output.features.shape[-2:])
        statistics.update(output.features, labels)
        if sample is not None:
            sample.update(output.features, labels)

    thresholds = confidence.quantile(quantile).clamp(max=cap)
    discrimination, confident_entropy = PixelDiscrimination(statistics.mean), SelfEntropy().to(device)
    confident = PseudoLabelScores(number).to(device)
    for truth, output in _validation(restored, "validation 2/2", console):
        confident.update(pseudo_labels(output.logits, size=truth.shape[-2:], threshold=thresholds), truth)
        confident_entropy.update(output.logits, pseudo_labels(output.logits, threshold=thresholds))
        discrimination.update(output.features, resize_labels(truth, output.features.shape[-2:]))

    ccd = class_center_distance(Moments(statistics.count, statistics.mean, statistics.m2))
    pdd, matrix = discrimination.compute(), confusion.matrix
    shares = {"truth": class_shares(matrix.sum(1)), "labels": class_shares(matrix[:, :-1].sum(0))}
    return {
        "images": len(restored.inputs.datasets["validation"]),
        **confusion.scores(classes).row(),
        "self_entropy": _number(entropy.compute()),
        "distribution": {name: _by_class(share, classes) for name, share in shares.items()},
        "pdd": _by_class(pdd, classes),
        "mean_pdd": _mean(pdd),
        "ccd": _by_class(ccd, classes),
        "mean_ccd": _mean(ccd),
        "pseudo_labels": {
            "quantile": quantile,
            "cap": cap,
            "thresholds": _by_class(thresholds, classes),
            **confident.quality(classes).row(),
            "self_entropy": _number(confident_entropy.compute()),
        },
    }


@torch.no_grad()
def analyse_target(restored: Restored, kind: str, truth: Dataset | None, console: Console) -> dict[str, Any]:
    """Analyse the pseudo labels that the run saved of its target training images; plain values for JSON.

    Their class distribution and coverage (of soft labels: of the most likely class), and the self-entropy (DRSL, Table
    7) of the trained network's predictions on all pixels and on the labelled ones, or of the soft labels.
    kind: as returned by ``saved_kind``.  truth: the target training images with their labels, to score the pseudo
    labels; None: these labels are not opened.  Memory does not depend on the number of images.  Raises ValueError for
    files that cannot be read or do not fit the run's target images.
    """
    inputs, device = restored.inputs, restored.device
    number = inputs.classes.num_classes
    distribution, quality = ClassDistribution(number).to(device), PseudoLabelScores(number).to(device)
    entropy, labelled_entropy = SelfEntropy().to(device), SelfEntropy().to(device)
    for index, labels, logits in _saved(restored, kind, console):
        distribution.update(labels)
        entropy.update(logits)
        labelled_entropy.update(logits, resize_labels(labels, logits.shape[-2:]))
        if truth is not None:
            true = resize_label(truth.label(index), tuple(labels.shape[-2:]))
            quality.update(labels, torch.from_numpy(np.array(true))[None].to(device))
    found = {
        "images": len(inputs.datasets["target"]),
        "kind": kind,
        "coverage": _number(distribution.coverage()),
        "distribution": {"labels": _by_class(distribution.shares(), inputs.classes)},
    }
    return {
        **found,
        **({} if truth is None else quality.quality(inputs.classes).row()),
        "self_entropy": _number(entropy.compute()),
        "self_entropy_labelled": _number(labelled_entropy.compute()),
    }


def saved_kind(inputs: Inputs) -> Literal["labels", "scores", ""]:
    """Whether the run saved labels or scores (soft labels) of its target images; "" for neither.

    Raises ValueError if the files are not exactly one for each target image.
    """
    images = len(inputs.datasets["target"])
    for kind, suffix in (("labels", ".png"), ("scores", ".npy")):
        found = {file.name for file in inputs.pseudo_labels.glob(f"*{suffix}")}
        if found and found != {f"{index:06d}{suffix}" for index in range(images)}:
            raise DataError(
                f"{inputs.pseudo_labels} holds {kind} of {len(found)} images, not of the run's {images} target images"
            )
        if found:
            return kind
    return ""


def predict_output(restored: Restored, images: Tensor) -> Output:
    """The logits (N, K, h, w) that the method predicts of standardised images, and the features they come from."""
    outputs: list[Output] = []
    method = restored.method
    # Features are hooked while ``predict`` runs, since it selects the domain's batch statistics.
    handle = method.networks().student.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        with restored.precision.autocast():
            logits = method.predict(images.contiguous(memory_format=torch.channels_last))
    finally:
        handle.remove()
    return Output(outputs[-1].features, logits)


def _validation(restored: Restored, name: str, console: Console) -> Iterator[tuple[Tensor, Output]]:
    """The labels (1, H, W) of each validation image, at their own size, and the network's output."""
    stream = restored.inputs.validation_stream()
    with LiveLine(console, name, len(stream)) as line:
        for number in range(len(stream)):
            batch = stream[number].to(restored.device)
            if batch.labels is None:
                raise DataError("the run's validation split is unlabelled, so there is no truth to analyse it against")
            yield batch.labels, predict_output(restored, standardise(batch.images))
            line.update(number + 1, f"{number + 1} images")


def _saved(restored: Restored, kind: str, console: Console) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(index, labels (1, H, W) uint8, logits (1, K, h, w)) of each target training image.

    The logits are the network's, or for kind "scores" the logarithm of the saved soft labels.
    """
    inputs, device, done = restored.inputs, restored.device, 0
    with LiveLine(console, "target training images", len(inputs.datasets["target"])) as line:
        for batch in inputs.plain("target"):
            size = tuple(batch.images.shape[-2:])
            logits = predict_output(restored, batch.images).logits if kind == "labels" else None
            for slot, index in enumerate(batch.index.tolist()):
                if logits is None:
                    scores = torch.from_numpy(inputs.read_scores(index)).to(device).float()[None]
                    yield index, pseudo_labels(scores, size=size, probabilities=True), scores.log()
                    continue
                labels = torch.from_numpy(np.array(inputs.read_pseudo_labels(index)))[None]
                yield index, labels.to(device), logits[slot : slot + 1]
            done += len(batch.index)
            line.update(done, f"{done} images")


def _number(value: Tensor | float) -> float | None:
    """A plain number; None for NaN and infinity, which JSON does not have."""
    value = float(value)
    return value if math.isfinite(value) else None


def _by_class(values: Tensor, classes: ClassSet) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(classes.names, values.tolist(), strict=True)}


def _mean(values: Tensor) -> float | None:
    return _number(values[values.isfinite()].mean())


def require_tsne() -> None:
    """Raises ValueError, naming what to install, where the libraries of t-SNE are missing."""
    try:
        import matplotlib  # noqa: F401
        import sklearn.manifold  # noqa: F401
    except ImportError:
        raise ValueError("--tsne needs the extra: pip install 'fastuda[analysis]'") from None


def tsne(features: Tensor) -> np.ndarray:
    """Positions (n, 2) float32 of pixel features (n, A) by t-SNE (van der Maaten and Hinton 2008), with a fixed seed.

    Raises ValueError for fewer than 4 pixels or features that are not finite.
    """
    from sklearn.manifold import TSNE

    if len(features) < MIN_PIXELS:
        raise ValueError(
            f"--tsne needs at least {MIN_PIXELS} labelled pixels, the validation split has {len(features)}"
        )
    if not features.isfinite().all():
        raise ValueError("--tsne: the pixel features are not finite")
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, random_state=SEED).fit_transform(features.cpu().numpy())


def save_tsne(path: Path, places: np.ndarray, labels: np.ndarray, classes: ClassSet) -> None:
    """Draw pixels at ``places`` (n, 2) in the colours of their classes ``labels`` (n,), as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.add_subplot(xticks=[], yticks=[])
    for k in np.unique(labels):
        axes.scatter(*places[labels == k].T, s=6, color=classes.palette[k] / 255, label=classes.names[k])
    figure.legend(loc="outside right upper", markerscale=2)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """The report as tables: IoU, the figures of each class, the class distributions."""
    validation, target = report["validation"], report["target"] or {}
    stages = [{"name": "prediction", **validation}, {"name": "confident", **validation["pseudo_labels"]}]
    if "miou" in target:
        stages.append({"name": "pseudo labels, training images", **target})
    yield iou_table(stages)

    confident, shares = validation["pseudo_labels"], validation["distribution"]
    figures = {"PDD": validation["pdd"], "CCD": validation["ccd"], "threshold": confident["thresholds"]}
    yield class_table("class", figures | {"covered": confident["class_coverage"]})
    shares = {"truth": shares["truth"], "predicted": shares["labels"], "confident": confident["distribution"]["labels"]}
    shares |= {f"training {name}": of for name, of in target.get("distribution", {}).items()}
    yield class_table("pixels, %", {name: _percent(of) for name, of in shares.items()})


def _percent(values: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else 100 * value for name, value in values.items()}


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The figures of whole splits as lines of text."""
    validation, target = report["validation"], report["target"]
    confident = validation["pseudo_labels"]

    def text(part: dict[str, Any], **shown: str) -> str:
        """The given fields of ``part``, if it has them, under the given names; fractions in per cent."""
        percent = {"miou", "accuracy", "mean_accuracy", "coverage"}
        texts = []
        for key, name in shown.items():
            if key in part:
                value = "-" if part[key] is None else f"{part[key] * (100 if key in percent else 1):.4g}"
                texts.append(f"{name} {value}{' %' if key in percent else ''}")
        return ", ".join(texts)

    yield "validation: " + text(validation, mean_accuracy="MPA", accuracy="accuracy", self_entropy="self-entropy")
    yield "validation: " + text(validation, mean_pdd="mean PDD", mean_ccd="mean CCD")
    yield "validation, confident pixels: " + text(
        confident, miou="mIoU", coverage="coverage", self_entropy="self-entropy"
    )
    if target is None:
        yield "target training images: the run saved no pseudo labels"
        return
    yield "target training images, pseudo labels: " + text(
        target,
        miou="mIoU",
        coverage="coverage",
        self_entropy="self-entropy of all pixels",
        self_entropy_labelled="of labelled ones",
    )


def analyse(
    restored: Restored,
    *,
    quantile: float | None = None,
    cap: float | None = None,
    train_labels: bool = False,
    sample: PixelSample | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Analyse a run: {method, preset, task, seed, validation, target}, plain values for JSON.

    "validation" is from ``analyse_validation``, "target" from ``analyse_target``, or None if no labels were saved.
    quantile, cap: define the confident pixels of the validation split; by default as in the run's self-training, or as
    in SDCA's if it has none.  train_labels: read the labels of the target training images, which no other code does.
    Raises ValueError if the run lacks what is needed.
    """
    console, inputs, config = console or Console(quiet=True), restored.inputs, restored.inputs.config
    labelling = getattr(restored.method, "labelling", SelfTrainingConfig())
    quantile = labelling.quantile if quantile is None else quantile
    cap = labelling.threshold_cap if cap is None else cap
    for name, value in (("--quantile", quantile), ("--cap", cap)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value}")
    # Errors in the run's files are raised before the long passes.
    kind, truth = saved_kind(inputs), None
    if train_labels:
        if not kind:
            raise ValueError(f"--train-labels: the run saved no pseudo labels in {inputs.pseudo_labels} to compare")
        truth = build_dataset(replace(config.data.target, labelled=True), inputs.classes, config.data.root)
    return {
        "method": config.method,
        "preset": config.preset,
        "task": config.task,
        "seed": config.seed,
        "validation": analyse_validation(restored, quantile, cap, console, sample),
        "target": analyse_target(restored, kind, truth, console) if kind else None,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _options(arguments)
    with one_sentence():
        if options.tsne:
            require_tsne()
        restored = restore(options.work_dir, options.roots)
        output = options.output or options.work_dir / "analysis.json"
        for path in filter(None, (output, options.tsne)):
            if path.is_dir() or not path.parent.is_dir():
                raise ValueError(f"cannot write {path}: it must be a file in a directory that exists")
        classes, sample = restored.inputs.classes, None
        if options.tsne:
            channels = restored.method.networks().student.feature_channels
            sample = PixelSample(classes.num_classes, channels, options.tsne_pixels, SEED).to(restored.device)
        console = Console()
        report = analyse(
            restored,
            quantile=options.quantile,
            cap=options.cap,
            train_labels=options.train_labels,
            sample=sample,
            console=console,
        )
        write_json(output, report)
        console.print(*tables(report), *lines(report), sep="\n", highlight=False, soft_wrap=True)
        if sample is not None:
            features, labels = sample.compute()
            save_tsne(options.tsne, tsne(features), labels.cpu().numpy(), classes)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fastuda.analyse", description=__doc__)
    parser.add_argument("work_dir", type=Path, help="directory of a training run")
    parser.add_argument("--output", type=Path, help="JSON file of the figures; by default analysis.json in WORK_DIR")
    parser.add_argument(
        "--train-labels",
        action="store_true",
        help="score the run's pseudo labels against the labels of the target training images, which are otherwise "
        "never opened",
    )
    parser.add_argument(
        "--quantile", type=float, help="validation: quantile of each class's confidence above which pixels count"
    )
    parser.add_argument("--cap", type=float, help="validation: a confidence that always suffices")
    add_roots(parser)
    parser.add_argument("--tsne", type=Path, metavar="FILE", help="PNG of the pixel features on a plane by t-SNE")
    parser.add_argument("--tsne-pixels", type=int, default=200, help="pixels of each class that it shows")
    return parser.parse_args(arguments)
