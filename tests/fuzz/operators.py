"""Cases of the public operators: each draws arguments, and gives a call and the documented shapes of its result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from fuzz.inputs import COUNTS, IGNORED, INDICES, STATISTICS, Inputs, mostly
from torch import Tensor

from fastuda import ops

Case = Callable[[Inputs], tuple[Callable[[], Any], Callable[[], tuple]]]
REDUCTIONS = mostly(("mean", "sum", "none"), "other")
SHARES = mostly((0.5, 0.0, 1.0), -1.0, float("nan"))
CLASSES = mostly((1, 2, 3, 19, 255), 0, 256)
POSITIVE = mostly((1.0, 100.0, 1e-30), 0.0, -1.0, float("nan"), float("inf"))


def _pixels(given: Inputs, classes: int, name: str = "features", larger: bool = False) -> tuple[Tensor, Tensor]:
    n, channels, height, width = given.sizes(4)
    if given.pick("image", "image", "rows") == "rows":
        return given.floats(name, (n * height, channels)), given.labels("labels", (n * height,), classes)
    factor = given.pick(1, 2) if larger else 1
    labels = given.labels("labels", (n, factor * height, factor * width), classes)
    return given.floats(name, (n, channels, height, width)), labels


def _scores(given: Inputs, name: str = "scores") -> Tensor:
    n, height, width = given.sizes(3)
    return given.floats(name, (n, given.pick(*CLASSES), height, width))


def class_moments(given: Inputs):
    classes = given.option("num_classes", *COUNTS)
    downsample = given.option("downsample", *mostly((None, None, "nearest", "ratio"), "other"))
    features, labels = _pixels(given, classes, larger=downsample is not None)
    covariance = given.option("covariance", *mostly(("diag", "full", None), "other"))
    options = given.options(ignore_index=IGNORED, min_ratio=SHARES)
    wanted = (classes, *features.shape[1:2])
    m2 = {"diag": wanted, "full": (*wanted, *wanted[1:])}.get(covariance)
    call = partial(
        ops.class_moments, features, labels, classes, covariance=covariance, downsample=downsample, **options
    )
    return call, lambda: ((classes,), wanted, m2)


def downsample_labels(given: Inputs):
    classes = given.option("num_classes", *COUNTS)
    labels = given.labels("labels", given.sizes(3), classes)
    size = given.pick(tuple(labels.shape[1:]), given.size(), (1, 1))
    given.said.append(f"size={size}")
    options = given.options(rule=mostly(("nearest", "ratio"), "other"), min_ratio=SHARES, ignore_index=IGNORED)
    return partial(ops.downsample_labels, labels, size, classes, **options), lambda: ((*labels.shape[:1], *size),)


def contrastive_bound(given: Inputs):
    classes = given.pick(*CLASSES)
    features, labels = _pixels(given, classes)
    shape = (classes, *features.shape[1:2])
    form = given.pick("none", "diag", "full", "low_rank")
    covariance = None
    if form in ("diag", "full"):
        covariance = given.floats(form, shape if form == "diag" else (*shape, *shape[1:]), STATISTICS)
    elif form == "low_rank":
        factors = given.floats("factors", (*shape, given.pick(0, 1, 2)), STATISTICS)
        covariance = ops.LowRank(given.floats("diag", shape, STATISTICS), factors, None)
    mean = given.floats("mean", shape, STATISTICS)
    options = given.options(temperature=POSITIVE, reduction=REDUCTIONS, normalize=(False, True), ignore_index=IGNORED)
    wanted = labels.shape if options["reduction"] == "none" else ()
    return partial(ops.contrastive_bound, features, labels, mean, covariance, **options), lambda: (wanted,)


def _dense(given: Inputs) -> tuple[Tensor, Tensor, dict]:
    logits = _scores(given, "logits")
    images = logits.shape[0] if logits.dim() else 1
    target = given.labels("target", (images, *given.sizes(2)), 19)
    return logits, target, {"size": given.size()} | given.options(align_corners=(True, False), ignore_index=IGNORED)


def lovasz_softmax(given: Inputs):
    logits, target, options = _dense(given)
    options |= given.options(bins=mostly((0, 1, 100, 65536), 65537, -1, 2**62), probabilities=(False, True))
    return partial(ops.lovasz_softmax, logits, target, **options), lambda: ((),)


def upsample_cross_entropy(given: Inputs):
    logits, target, options = _dense(given)
    size = tuple(target.shape[1:]) if options["size"] is None else options["size"]
    shape = (*target.shape[:1], *size)
    options |= given.options(reduction=REDUCTIONS, label_smoothing=(0.0, *SHARES))
    if given.seldom(3):
        options["weight"] = given.floats("weight", logits.shape[1:2], STATISTICS)
    if given.seldom(3) and all(0 <= side < 100 for side in shape):
        options["pixel_weight"] = given.floats("pixel_weight", shape, STATISTICS)
    wanted = shape if options["reduction"] == "none" else ()
    return partial(ops.upsample_cross_entropy, logits, target, **options), lambda: (wanted,)


def low_rank(given: Inputs):
    classes, channels = given.sizes(2)
    covariance = given.floats("covariance", (classes, channels, channels), STATISTICS)
    options = given.options(rank=mostly((1, 2), 3, 0, -1, 2**62), iterations=mostly((0, 1, 4), -1))
    shape = tuple(covariance.shape[:2])
    return partial(ops.low_rank, covariance, **options), lambda: (shape, (*shape, options["rank"]), shape[:1])


def mode_losses(given: Inputs):
    classes = given.pick(*CLASSES)
    embeddings, labels = _pixels(given, classes, "embeddings")
    modes = given.floats("modes", (classes, given.pick(*mostly((1, 2, 3), 0, 257)), *embeddings.shape[1:2]), STATISTICS)
    options = given.options(
        sigma2=POSITIVE, margin=SHARES, square=(False, True), ignore_index=IGNORED, reduction=REDUCTIONS
    )
    wanted = labels.shape if options["reduction"] == "none" else ()
    call = partial(ops.mode_losses, embeddings, labels, modes, **options)
    return call, lambda: (wanted, wanted, labels.shape, labels.shape)


def _upsampled(scores: Tensor, size: tuple | None) -> tuple:
    return (*scores.shape[:1], *(scores.shape[2:] if size is None else size))


def prototype_rectify(given: Inputs):
    scores, size = _scores(given), given.size()
    soft = given.floats("soft", (*scores.shape[:2], *given.sizes(2)))
    options = given.options(temperature=POSITIVE, align_corners=(True, False))
    return partial(ops.prototype_rectify, scores, soft, size=size, **options), lambda: (_upsampled(scores, size),)


def _labelled(given: Inputs, run: Callable, name: str, numbers: bool):
    scores, size = _scores(given), given.size()
    number = numbers and given.seldom(2)
    threshold = given.option(name, *SHARES) if number else given.floats(name, scores.shape[1:2], STATISTICS)
    both = (False, True)
    options = given.options(probabilities=both, align_corners=both, return_confidence=both)
    results = 2 if options["return_confidence"] else 1
    return partial(
        run, scores, size=size, **{name: threshold}, **options
    ), lambda: (_upsampled(scores, size),) * results


def pseudo_labels(given: Inputs):
    return _labelled(given, ops.pseudo_labels, "threshold", numbers=True)


def select_balanced(given: Inputs):
    return _labelled(given, ops.select_balanced, "thresholds", numbers=False)


def confidence_histogram(given: Inputs):
    scores, size = _scores(given), given.size()
    options = given.options(bins=COUNTS, probabilities=(False, True), align_corners=(True, False))
    wanted = (*scores.shape[1:2], options["bins"])
    return partial(ops.confidence_histogram, scores, size=size, **options), lambda: (wanted,)


def select_triplets(given: Inputs):
    options = given.options(num_classes=COUNTS, num_modes=COUNTS)
    rows = {}
    for domain in ("source", "target"):
        (count,) = given.sizes(1)
        for kind, most in (("class", options["num_classes"]), ("mode", options["num_modes"])):
            rows[f"{domain}_{kind}"] = given.labels(f"{domain}_{kind}", (count,), most)
    return partial(ops.select_triplets, **rows, **options), lambda: (rows["target_class"].shape,) * 3


def sinkhorn(given: Inputs):
    batch, rows, classes = given.sizes(3)
    scores = given.floats("scores", given.pick((rows, classes), (batch, rows, classes)))
    marginal = given.floats("marginal", given.pick((classes,), (batch, classes)), STATISTICS)
    marginal = marginal.abs() if marginal.is_floating_point() and given.seldom(2) else marginal
    options = given.options(
        epsilon=(0.05, *POSITIVE), iterations=mostly((1, 3), 0, -1), current=mostly((None, 0, 1), 2, -1, 9, 2**62)
    )
    rows = scores.shape[-2:-1] if options["current"] is None else (options["current"],)
    wanted = (*scores.shape[:-2], *rows, *scores.shape[-1:])
    return partial(ops.sinkhorn, scores, marginal=marginal, **options), lambda: (wanted,)


def _divergence(given: Inputs, run: Callable, **options: Any):
    n, classes, height, width = given.sizes(4)
    shape = given.pick((n, classes, height, width), (n, classes))
    logits, other = given.floats("logits", shape), given.floats("other", shape)
    if given.seldom(2):
        # Both of one type more often than chance makes them.
        other = other.to(logits.dtype)
    reduction = given.option("reduction", *REDUCTIONS)
    mask = given.flags("mask", shape[:1] + shape[2:]) if given.seldom(2) else None
    wanted = (*logits.shape[:1], *logits.shape[2:]) if reduction == "none" else ()
    return partial(run, logits, other, mask=mask, reduction=reduction, **options), lambda: (wanted,)


def symmetric_kl(given: Inputs):
    return _divergence(given, ops.symmetric_kl)


def distillation_kl(given: Inputs):
    return _divergence(given, ops.distillation_kl, **given.options(temperature=POSITIVE))


def triplet_consistency_loss(given: Inputs):
    rows, others, channels = given.sizes(3)
    target, source = given.floats("target", (rows, channels)), given.floats("source", (others, channels))
    source = source.to(target.dtype) if given.seldom(2) else source
    partners = [given.labels(name, (rows,), others, INDICES) for name in ("positive", "negative")]
    valid = given.flags("valid", (rows,))
    options = given.options(margin=SHARES, reduction=REDUCTIONS)
    wanted = target.shape[:1] if options["reduction"] == "none" else ()
    return partial(ops.triplet_consistency_loss, target, source, *partners, valid, **options), lambda: (wanted,)


def aggregate_patches(given: Inputs):
    images, patches, height, width = given.sizes(4)
    classes = given.pick(*CLASSES)
    scores = given.floats("patch_scores", (images, patches, classes, height, width))
    offsets = given.labels("offsets", (images, patches, 2), 8, INDICES)
    full = given.floats("full", (images, classes, *given.sizes(2))) if given.seldom(2) else None
    size, patch, both = given.size() or (4, 4), given.size("patch"), (False, True)
    options = given.options(
        stride=mostly((1, 2, 8), 0, -1, 2**62), bins=mostly((0, 1, 10), -1, 2**62), return_volume=both,
        align_corners=both, probabilities=both,
    )  # fmt: skip

    def shapes() -> tuple:
        of_label, bins = (images, *size), options["bins"]
        volume = (images, classes, *size) if options["return_volume"] else None
        return of_label, of_label, (classes, bins) if bins else None, volume

    return partial(ops.aggregate_patches, scores, offsets, size, patch=patch, full=full, **options), shapes


def _sampled(given: Inputs, run: Callable, per_class: bool):
    classes, wanted = given.option("num_classes", *COUNTS), given.option("count", *mostly((0, 1, 3, 50), -1, 2**62))
    labels = given.labels("labels", given.pick(given.sizes(2), given.sizes(3)), classes)
    shape = (*labels.shape[:1], *((classes,) if per_class else ()), wanted)
    return partial(run, labels, wanted, classes, **given.options(ignore_index=IGNORED)), lambda: (shape,)


def class_balanced_sample(given: Inputs):
    return _sampled(given, ops.class_balanced_sample, per_class=False)


def sample_per_class(given: Inputs):
    return _sampled(given, ops.sample_per_class, per_class=True)


def class_thresholds(given: Inputs):
    classes, shape = given.option("num_classes", *COUNTS), given.sizes(given.pick(0, 1, 2, 3, 4))
    confidence, label = given.floats("confidence", shape), given.labels("label", shape, classes)
    options = given.options(
        rule=mostly(("median", "portion"), "other"), portion=SHARES, cap=(None, *SHARES), ignore_index=IGNORED
    )
    return partial(ops.class_thresholds, confidence, label, classes, **options), lambda: ((classes,),)


def confusion_matrix(given: Inputs):
    classes, shape = given.option("num_classes", *COUNTS), given.sizes(given.pick(0, 1, 2, 3, 4))
    pair = [given.labels(name, shape, classes) for name in ("prediction", "truth")]
    return partial(ops.confusion_matrix, *pair, classes), lambda: ((classes, classes),)


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        aggregate_patches, class_balanced_sample, class_moments, class_thresholds, confidence_histogram,
        confusion_matrix, contrastive_bound, distillation_kl, downsample_labels, lovasz_softmax, low_rank, mode_losses,
        prototype_rectify, pseudo_labels, sample_per_class, select_balanced, select_triplets, sinkhorn, symmetric_kl,
        triplet_consistency_loss, upsample_cross_entropy,
    )
}  # fmt: skip

REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError, MemoryError)


def tensors(result: Any) -> list[Tensor | None]:
    return [result] if isinstance(result, Tensor) else list(result)


def run(name: str, given: Inputs) -> bool:
    """Run one example; whether it gave a result, of the documented shape, and not a refusal with a message."""
    call, shapes = CASES[name](given)
    given.begin(name)
    try:
        result = tensors(call())
    except REFUSALS as refusal:
        assert str(refusal).strip() or isinstance(refusal, MemoryError), f"{type(refusal).__name__} without a message"
        return False
    found, wanted = [None if part is None else tuple(part.shape) for part in result], shapes()
    assert found == [None if shape is None else tuple(shape) for shape in wanted], (found, wanted)
    slopes = [part.float().sum() for part in result if part is not None and part.requires_grad]
    if slopes:
        torch.stack(slopes).sum().backward()
    return True
