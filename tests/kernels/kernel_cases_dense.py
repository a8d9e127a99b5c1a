"""Small cases for the launchers of the losses and thresholds on dense labels; see kernel_cases.py."""

from __future__ import annotations

import functools

import torch
import triton_room
from close import assert_as_accurate
from contract import make as make_features
from dense import make

from fastuda.reference import lovasz_softmax as lovasz_reference
from fastuda.reference import softmax_kl as kl_reference
from fastuda.reference import upsample_cross_entropy as loss_reference

shared = triton_room.load_file(triton_room.HERE / "kernel_cases.py", "triton_room_kernel_cases")
samplers = triton_room.load_file(triton_room.HERE / "kernel_cases_samplers.py", "triton_room_kernel_cases_samplers")
full = triton_room.load_file(triton_room.HERE / "kernel_cases_full.py", "triton_room_kernel_cases_full")
thresholds = triton_room.load_file(triton_room.ROOT / "tests/ops/test_class_thresholds.py", "ops_class_thresholds")
F32, F16, BF16, EPS = shared.F32, shared.F16, shared.BF16, shared.EPS
sizes_of = samplers.sizes_of


def check_divergence(
    shape=(2, 21, 5, 9), dtype=F32, *, symmetric=True, temperature=1.0, masked=True, strided=False, apart=None,
    spread=1.0, **sizes,
) -> None:  # fmt: skip
    g = torch.Generator().manual_seed(1)
    image = shape if len(shape) == 4 else (1, shape[1], shape[0], 1)
    first, second = (spread * make_features(image, 4, dtype, seed=seed)[0] for seed in (0, 1))
    if len(shape) == 2:
        first, second = (x[0, :, :, 0].T.contiguous() for x in (first, second))
    if apart is not None:
        second = first + apart * second
    pixels = first.shape[:1] + first.shape[2:]
    mask = torch.rand(pixels, generator=g) < 0.8
    valid = mask if masked else torch.ones_like(mask)
    grad = (256 * (0.5 + torch.rand(pixels, generator=g))).where(valid, torch.nan)
    first, second = (x.masked_fill(~valid.unsqueeze(1), torch.nan) for x in (first, second))
    options = mask if masked else None, temperature, symmetric

    def reference(kind):
        given = first.to(kind), second.to(kind), *options
        return kl_reference.forward(*given), *kl_reference.backward(grad.to(kind), *given)

    plain = kl_reference.forward(first, second, *options), *kl_reference.backward(grad, first, second, *options)
    truth = reference(torch.float64)
    given = first, second, *options
    if strided:
        given = shared.gaps(first), shared.gaps(second.mT).mT, *options
        given = *given[:2], shared.gaps(mask) if masked else None, *options[1:]
        grad = shared.gaps(grad.mT).mT if grad.dim() > 1 else shared.gaps(grad)
    module = triton_room.kernel_module("softmax_kl")
    with sizes_of(module, sizes):
        ours = module.forward(*given), *module.backward(grad, *given)
    for name, mine, usual, exact in zip(("loss", "first slope", "second slope"), ours, plain, truth, strict=True):
        assert_as_accurate(mine, usual, exact, 2 * EPS, name)
        outside = ~valid if name == "loss" else ~valid.unsqueeze(1).expand_as(first)
        assert not mine.numel() or not mine[outside].any(), f"{name}: a pixel that does not count is not zero"
        assert apart != 0 or not mine.any(), f"{name}: not zero where the logits are equal"
    assert ours[1].stride() == torch.empty_like(given[0]).stride()


DIVERGENCES = {
    "plain": {},
    "strided bfloat16": dict(dtype=BF16, strided=True),
    "strided": dict(strided=True, TILE=256),
    "float16 rows": dict(shape=(150, 19), dtype=F16),
    "no mask": dict(masked=False),
    "a teacher": dict(symmetric=False),
    "a warm teacher": dict(symmetric=False, temperature=2.5, strided=True, TILE=256),
    "a warm teacher without a mask": dict(symmetric=False, temperature=0.5, masked=False, shape=(3, 5, 7, 11)),
    "one class": dict(shape=(1, 1, 3, 5), masked=False),
    "one pixel": dict(shape=(1, 4, 1, 1), masked=False),
    "150 classes": dict(shape=(1, 150, 3, 5)),
    "256 classes": dict(shape=(7, 256), masked=False),
    "a wide spread": dict(spread=30.0),
    "a small distance": dict(apart=1e-3, masked=False),
    "the same logits": dict(apart=0.0),
    "no pixels": dict(shape=(0, 4, 3, 3)),
}


def check_thresholds(
    shape=(2, 9, 40), classes=5, dtype=F32, *, kind="even", rules=thresholds.RULES[:2], label_dtype=torch.int64,
    strided=False, ignore_index=255, change=None, **sizes,
) -> None:  # fmt: skip
    confidence, label = thresholds.pixels(shape, classes, kind)
    if change is not None:
        confidence, label = change(confidence, label)
    given = confidence.to(dtype), label.to(label_dtype)
    if strided:
        given = shared.gaps(given[0].mT).mT, shared.gaps(given[1])
    module = triton_room.kernel_module("class_thresholds")
    with sizes_of(module, sizes):
        for portion, from_top in rules:
            options = classes, portion, from_top, ignore_index
            ours, truth = module.class_thresholds(*given, *options), thresholds.definition(*given, *options)
            samplers.assert_same(ours, truth, f"portion {portion} {'down' if from_top else 'up'}")


def _signs(confidence, label):
    wild = torch.tensor([-torch.inf, -3.0, -0.25, 0.0, 1e-41, -1e-41, 0.5, 1.0, 1.5, torch.inf, torch.nan])
    return wild.repeat(9)[None, None], torch.zeros(1, 1, 99, dtype=torch.int64)


def _nobody(confidence, label):
    return confidence.masked_fill(label == 1, torch.nan), label.masked_fill(label == 0, 255)


def _hundred(confidence, label):
    """Of which 0.29 are 28 in float64, and 29 in float32."""
    return torch.arange(100.0).view(1, 1, 100) / 128, torch.zeros(1, 1, 100, dtype=torch.int64)


def _wide_labels(confidence, label):
    return confidence, label.masked_fill(label == 1, 2**32 + 1).masked_fill(label == 0, -(2**40))


ALL_RULES = thresholds.RULES
THRESHOLDS = {
    "even": {},
    "every rule": dict(rules=ALL_RULES, shape=(1, 7, 43)),
    "programs": dict(shape=(3, 33, 41), BLOCK=256, MOST_PROGRAMS=5, kind="sure"),
    "a program a block": dict(shape=(600,), BLOCK=128, classes=3),
    "19 classes": dict(classes=19, kind="sure", rules=ALL_RULES[:1]),
    "100 classes": dict(classes=100, rules=ALL_RULES[:1], shape=(1, 30, 40)),
    "256 classes": dict(classes=256, rules=ALL_RULES[1:2], ignore_index=-100, shape=(1, 30, 40)),
    "one class": dict(classes=1, kind="any"),
    "short digits": dict(BINS=32, classes=7, kind="any"),
    "strided bfloat16": dict(dtype=BF16, strided=True, label_dtype=torch.int32),
    "float64": dict(dtype=torch.float64, label_dtype=torch.uint8, change=lambda c, y: (c.double() + 2e-9, y.clamp(0))),
    "signs": dict(change=_signs, classes=1, rules=[(i / 9, i % 2 == 1) for i in range(10)]),
    "tiny": dict(kind="tiny"),
    "next to 1": dict(kind="next to 1", classes=2),
    "equal": dict(kind="equal", classes=2),
    "classes without pixels": dict(change=_nobody),
    "labels of more bits": dict(change=_wide_labels),
    "another ignore_index": dict(ignore_index=1),
    "a portion in float64": dict(change=_hundred, classes=1, rules=[(0.29, True)]),
    "no pixels": dict(shape=(0, 3, 4)),
}


def check_losses(
    shape=(2, 5, 4, 6), size=(13, 19), dtype=F32, *, align=True, weighted=False, scaled=False, smoothing=0.0,
    outputs=(True, True), strided=False, hole=False, ignore_index=255, label_dtype=torch.int64, change=None,
    spread=1.0, **sizes,
) -> None:  # fmt: skip
    logits, target = make(shape, size, dtype, label_dtype)
    logits *= spread
    if change is not None:
        target = change(target)
    if hole:  # nodes that only ignored pixels read
        down, along = ((size[i] - 1) // (shape[2 + i] - 1) for i in (0, 1))
        target[:, : 2 * down, : 2 * along] = 255
        logits[:, :, :2, :2] = torch.nan
        logits[0, 0, 0, 0] = torch.inf
    classes = shape[1]
    weight = 0.3 + torch.sin(1.0 + torch.arange(classes)).square() if weighted else None
    scale = (torch.arange(target.numel(), dtype=torch.float64).view(target.shape) * 0.618) % 1 if scaled else None
    options = align, ignore_index, smoothing, *outputs
    plain, truth = (loss_reference.forward(x, target, weight, scale, *options) for x in (logits, logits.double()))
    given = logits, target, weight, scale
    if strided:
        given = shared.gaps(logits.mT).mT, *(None if t is None else shared.gaps(t) for t in given[1:])
    with sizes_of(triton_room.kernel_module("_cells"), sizes):
        ours = triton_room.kernel_module("upsample_cross_entropy").upsample_cross_entropy(*given, *options)
    for name, mine, usual, exact in zip(("total", "map", "slope"), ours, plain, truth, strict=True):
        assert_as_accurate(mine, usual, exact, EPS, name)
        assert classes == 1 or not mine[exact == 0].any(), f"{name}: not zero where nothing counts"
        assert mine.is_contiguous()


SMALL = {"ROWS": 6}
LOSSES = {
    "small": dict(shape=(2, 3, 3, 3), size=(5, 6), weighted=True, scaled=True, smoothing=0.1, ROWS=3),
    "plain": dict(SMALL),
    "cells of half a pixel": dict(align=False, **SMALL),
    "weights": dict(weighted=True, scaled=True, smoothing=0.1, **SMALL),
    "strided bfloat16": dict(dtype=BF16, strided=True, weighted=True, scaled=True, smoothing=0.3, size=(7, 11)),
    "tiles of two cells": dict(TILE=16, ROWS=5, size=(7, 11)),
    "ignored nodes": dict(hole=True, shape=(1, 5, 4, 5), size=(10, 13), **SMALL),
    "the same size": dict(size=(4, 6), align=False),
    "the same size, corners": dict(size=(4, 6), shape=(1, 3, 4, 6), ROWS=2),
    "smaller": dict(shape=(1, 4, 17, 9), size=(5, 4), ROWS=2),
    "smaller, half a pixel": dict(shape=(1, 4, 17, 9), size=(5, 4), ROWS=2, align=False),
    "one node": dict(shape=(2, 3, 1, 1), size=(5, 3), align=False),
    "one pixel": dict(shape=(1, 3, 2, 3), size=(1, 1)),
    "one row of nodes": dict(shape=(1, 19, 1, 9), size=(3, 17)),
    "one column of nodes": dict(shape=(1, 2, 7, 1), size=(19, 2), align=False, **SMALL),
    "40 classes": dict(shape=(1, 40, 2, 9), size=(3, 17), smoothing=0.2),
    "one class": dict(shape=(1, 1, 3, 4), size=(5, 7)),
    "no map": dict(outputs=(False, True), size=(5, 11)),
    "no gradient": dict(outputs=(True, False), size=(5, 11), dtype=F16),
    "the loss alone": dict(outputs=(False, False), size=(5, 11), label_dtype=torch.uint8),
    "labels of more bits": dict(
        change=lambda y: y.masked_fill(y == 0, 2**32 + 1).masked_fill(y == 2, -1), size=(7, 11)
    ),
    "another ignore_index": dict(ignore_index=1, label_dtype=torch.int32, size=(7, 11)),
    "no label": dict(change=lambda y: y * 0 + 255, size=(5, 11)),
    "a wide spread": dict(spread=50.0, size=(7, 11)),
    "no pixels": dict(size=(0, 5)),
    "no columns": dict(size=(5, 0)),
    "no images": dict(shape=(0, 3, 4, 5)),
}


def check_errors(
    shape=(2, 5, 4, 6), size=(13, 19), dtype=F32, *, bins=20, probabilities=False, align=True, with_slope=True,
    strided=False, hole=False, ignore_index=255, label_dtype=torch.int64, change=None, spread=1.0, levels=None,
    walk=None, **sizes,
) -> None:  # fmt: skip
    """Few probabilities (``levels``) lie in one bin for certain; of others, one beside the edge may go either way."""
    scores, target = make(shape, size, dtype, label_dtype)
    scores = scores * spread
    if levels is not None:
        scores = (torch.rand(shape, generator=torch.Generator().manual_seed(3)) * levels).round() / levels
    elif probabilities:
        scores = scores.softmax(1)
    if change is not None:
        scores, target = change(scores, target)
    if hole:
        down, along = ((size[i] - 1) // (shape[2 + i] - 1) for i in (0, 1))
        target[:, : 2 * down, : 2 * along] = 255
        scores[:, :, :2, :2] = torch.nan
    scores = scores.to(dtype)
    options = bins, probabilities, align, ignore_index, with_slope
    plain, truth = (lovasz_reference.forward(x, target, *options) for x in (scores, scores.double()))
    given = (shared.gaps(scores.mT).mT, shared.gaps(target)) if strided else (scores, target)
    module = triton_room.kernel_module("lovasz_softmax")
    with sizes_of(triton_room.kernel_module("_cells"), walk or {}), full.constants(module, sizes):
        ours = module.lovasz_softmax(*given, *options)
    assert ours[0].shape == () and ours[1].shape == truth[1].shape and ours[0].dtype == ours[1].dtype == F32
    assert torch.equal(ours[0].isnan(), plain[0].isnan()), "NaN, or not"
    if plain[0].isnan():
        return
    error = abs(ours[0].item() - truth[0].item())
    assert error <= abs(plain[0].item() - truth[0].item()) + 2e-6, f"loss: an error of {error:.1e}"
    if with_slope and ours[1].numel():
        # In float32 an error may fall into the next bin, of the definition or of the kernel.
        gaps = [(ours[1].double() - slope.double()).abs().max().item() for slope in (plain[1], truth[1])]
        assert min(gaps) <= 2e-5 * truth[1].abs().max().item() + 1e-12, f"slope: an error of {min(gaps):.1e}"
        assert not ours[1][(plain[1] == 0) & (truth[1] == 0)].any(), "slope: not zero where nothing counts"


def _no_number(scores, target):
    scores[0, 2, 1, 1] = torch.nan
    return scores, target.clamp(0, 4)


def _wild(scores, target):
    """Numbers that are no probabilities, and a class that does not occur."""
    scores[0, 1, :2] = 1.5
    scores[0, 3, 1:] = -0.25
    return scores, target.masked_fill(target == 2, 255)


ERRORS = {
    "small": dict(shape=(2, 3, 3, 3), size=(5, 6), bins=6, walk={"ROWS": 3}),
    "plain": dict(walk=SMALL),
    "probabilities": dict(probabilities=True, levels=8, bins=16, walk=SMALL, align=False),
    "strided float16": dict(dtype=F16, strided=True, size=(7, 11), bins=7),
    "tiles of two cells": dict(walk={"TILE": 16, "ROWS": 5}, size=(7, 11)),
    "blocks of bins": dict(bins=50, AT_ONCE=16, size=(7, 11), walk=SMALL),
    "one bin": dict(bins=1, size=(7, 11)),
    "many bins": dict(bins=5000, size=(5, 11)),
    "ignored nodes": dict(hole=True, shape=(1, 5, 4, 5), size=(10, 13), walk=SMALL),
    "the same size": dict(size=(4, 6), levels=4, probabilities=True, bins=8),
    "smaller": dict(shape=(1, 4, 17, 9), size=(5, 4), walk={"ROWS": 2}, align=False),
    "40 classes": dict(shape=(1, 40, 2, 9), size=(3, 17)),
    "one class": dict(shape=(1, 1, 3, 4), size=(5, 7)),
    "the loss alone": dict(with_slope=False, size=(5, 11), label_dtype=torch.uint8),
    "numbers that are no probabilities": dict(probabilities=True, change=_wild, size=(7, 11)),
    "NaN": dict(change=_no_number, size=(7, 11)),
    "labels of more bits": dict(
        change=lambda x, y: (x, y.masked_fill(y == 0, 2**32 + 1).masked_fill(y == 2, -1)), size=(7, 11)
    ),
    "another ignore_index": dict(ignore_index=1, label_dtype=torch.int32, size=(7, 11)),
    "no label": dict(change=lambda x, y: (x, y * 0 + 255), size=(5, 11)),
    "a wide spread": dict(spread=30.0, size=(7, 11)),
    "no pixels": dict(size=(0, 5)),
    "no images": dict(shape=(0, 3, 4, 5)),
}

_DIVERGENCES = {name: functools.partial(check_divergence, **options) for name, options in DIVERGENCES.items()}
_THRESHOLDS = {name: functools.partial(check_thresholds, **options) for name, options in THRESHOLDS.items()}
_LOSSES = {name: functools.partial(check_losses, **options) for name, options in LOSSES.items()}
_ERRORS = {f"errors, {name}": functools.partial(check_errors, **options) for name, options in ERRORS.items()}
CHECKS = (
    dict.fromkeys(("_divergences", "_divergence_slopes"), _DIVERGENCES)
    | dict.fromkeys(("_count_keys", "_write_thresholds"), _THRESHOLDS)
    | dict.fromkeys(("_sum_losses", "_gather_nodes"), _LOSSES)
    | dict.fromkeys(("_count_errors", "_weigh_bins", "_sum_errors"), _ERRORS)
)
