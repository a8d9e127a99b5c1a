"""A few small cases for the launchers, each against the reference in float64: what must catch planted faults.

CHECKS: operator of mutant_table.py -> {name: function that raises AssertionError}. Ignored features are NaN, memory
that no kernel wrote is NaN (``mutants.py``), and reading outside of a tensor is a fault (``card_arithmetic.py``).
"""

from __future__ import annotations

import functools
from unittest import mock

import torch
import triton_room
from close import assert_as_accurate
from contract import make

from fastuda.reference import contrastive_bound as bound_reference
from fastuda.reference.class_moments import class_moments as moments_reference

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
EPS = 16 * torch.finfo(F32).eps


def dirty(features, labels, classes: int, ignore_index: int):
    """Features with NaN where ignored, and which pixels count."""
    valid, _ = bound_reference.usable(labels, classes, ignore_index)
    return features.masked_fill(~valid.unsqueeze(1), float("nan")), valid


def on_card(card: int, call):
    """``call()`` with the launchers' choices for such a card."""
    with mock.patch.object(triton_room.kernel_module("_common"), "capability", lambda device: card):
        return call()


def gaps(t: torch.Tensor) -> torch.Tensor:
    """The same numbers in another layout, every stride its own, NaN or 1 between them."""
    filler = float("nan") if t.is_floating_point() else 1
    wide = torch.full((*[n + 1 for n in t.shape[:-1]], 2 * t.shape[-1] + 1), filler, dtype=t.dtype)
    return wide[tuple(slice(1, None) for _ in t.shape[:-1])][..., 1::2].copy_(t)


def check_moments(
    shape=(2, 21, 5, 9), classes=3, dtype=F32, *, last=False, strided=False, ignore_index=255, card=80, offset=0.0,
    change=None, bad=None, nth=2,
) -> None:  # fmt: skip
    features, labels = make(shape, classes, dtype)
    features = (features + offset).to(dtype)
    labels = labels if change is None else change(labels)
    if bad is not None:  # in class 1, whose rows alone may show it
        at = (labels == 1).nonzero()[nth]
        features[at[0], 0, at[1], at[2]] = bad
    features, valid = dirty(features, labels, classes, ignore_index)
    clean = features.masked_fill(~valid.unsqueeze(1), 0)
    truth = moments_reference(clean.double(), labels, classes, ignore_index=ignore_index)
    plain = moments_reference(clean, labels, classes, ignore_index=ignore_index)
    if strided:
        features, labels = gaps(features), gaps(labels)
    elif last:
        features = features.contiguous(memory_format=torch.channels_last)
    module = triton_room.kernel_module("class_moments")
    with mock.patch.object(module, "SHORTEST_CHUNK", 128):  # more chunks than are merged at once, of few pixels
        count, mean, m2 = on_card(card, lambda: module.class_moments(features, labels, classes, ignore_index))
    assert torch.equal(count, truth.count), f"count {count.tolist()} instead of {truth.count.tolist()}"
    assert_as_accurate(mean, plain.mean, truth.mean, EPS, "mean")
    assert torch.equal(mean.isnan(), truth.mean.isnan()), "infinity and NaN are exchanged"
    assert_as_accurate(m2, plain.m2, truth.m2, EPS, "m2")
    assert not m2[truth.count == 1].any(), "one pixel has no spread"


MOMENTS = {
    "channels_last": dict(last=True),
    "strided bfloat16": dict(dtype=BF16, strided=True),
    "another ignore_index": dict(ignore_index=1),
    "no tensor cores": dict(card=75, dtype=F16),
    "labels of more bits": dict(change=lambda y: y.masked_fill(y == 0, 257).masked_fill(y == 2, 2**32 + 1)),
    "many classes, some of one pixel": dict(classes=70, shape=(1, 3, 9, 11)),
    "channels beyond a block": dict(shape=(1, 70, 3, 11)),
    "chunks": dict(shape=(1, 2, 17, 50), last=True),
    "many chunks, a class in the last only": dict(
        shape=(1, 1, 45, 51), classes=2, change=lambda y: y.where(torch.arange(45).view(-1, 1) > 42, 1)
    ),
    "a large offset": dict(offset=1000.0, shape=(1, 5, 15, 40), last=True),
    "a large offset, bfloat16": dict(offset=1000.0, dtype=BF16, shape=(1, 5, 15, 40)),
    "infinity": dict(bad=float("inf")),
    "NaN": dict(bad=float("nan"), dtype=BF16),
    "infinity first": dict(bad=-float("inf"), nth=0, change=lambda y: y * 0 + 1, shape=(1, 3, 1, 3)),
    "nothing": dict(change=lambda y: y * 0 + 255),
}


def agree(features, valid, ours, plain, truth) -> None:
    """Loss, posterior and gradient of a bound."""
    loss, posterior, slope = ours
    assert slope.dtype == features.dtype and slope.shape == features.shape
    assert_as_accurate(loss, plain[0], truth[0], EPS, "loss")
    assert_as_accurate(*(t[valid] for t in (posterior, plain[1], truth[1])), EPS, "posterior")
    assert_as_accurate(slope, plain[2], truth[2], EPS, "gradient")
    outside = ~valid.unsqueeze(1).expand_as(slope)
    assert not loss[~valid].any() and not slope[outside].any(), "an ignored pixel is not zero"


def check_bound(
    shape=(2, 21, 5, 9), classes=5, dtype=F32, *, covariance=True, normalize=True, temperature=2.0, strided=False,
    ignore_index=255, card=80, zero=False,
) -> None:  # fmt: skip
    features, labels = make(shape, classes, dtype)
    g = torch.Generator().manual_seed(1)
    mean = torch.randn(classes, shape[1], generator=g)
    sigma = 0.1 + torch.rand(classes, shape[1], generator=g) if covariance else None
    if zero:
        features[0, :, 1, 1], labels[0, 1, 1], mean[1], sigma[1] = 0, 0, 0, 0
    features, valid = dirty(features, labels, classes, ignore_index)
    clean = features.masked_fill(~valid.unsqueeze(1), 0)
    grad = (65536 * (0.5 + torch.rand(labels.shape, generator=g))).where(valid, float("nan"))
    options = temperature, normalize, ignore_index

    def reference(kind):
        q = clean.to(kind) if kind == torch.float64 else clean
        given = mean.to(kind), None if sigma is None else sigma.to(kind)
        loss, posterior = bound_reference.forward(q, labels, *given, *options)
        weight = grad.to(kind).nan_to_num()
        return loss, posterior, bound_reference.backward(weight, q, labels, *given, posterior, *options)

    plain, truth = reference(F32), reference(torch.float64)
    if strided:
        features, labels, grad = gaps(features), gaps(labels), gaps(grad.mT).mT
    else:
        features = features.contiguous(memory_format=torch.channels_last)
    module, inputs = triton_room.kernel_module("contrastive_bound"), (features, labels, mean, sigma)
    loss, posterior = on_card(card, lambda: module.forward(*inputs, *options))
    slope = on_card(card, lambda: module.backward(grad, *inputs, posterior, *options))
    agree(features, valid, (loss, posterior, slope), plain, truth)


BOUND = {
    "channels_last": {},
    "strided bfloat16": dict(dtype=BF16, strided=True),
    "float16": dict(dtype=F16, temperature=20.0, normalize=False),
    "no covariance": dict(covariance=False),
    "plain": dict(covariance=False, normalize=False, temperature=50.0),
    "one tile and a pixel": dict(shape=(1, 3, 1, 129)),
    "channels beyond a block": dict(shape=(1, 70, 3, 7)),
    "20 classes": dict(classes=20),
    "64 classes": dict(classes=64, shape=(1, 9, 5, 9)),
    "no tensor cores": dict(card=75),
    "length 0": dict(zero=True),
    "another ignore_index": dict(ignore_index=1),
    "1100 channels": dict(shape=(1, 1100, 1, 6), temperature=1.0),
    "a small temperature": dict(temperature=0.5, shape=(1, 9, 5, 9)),
}

_MOMENTS = {name: functools.partial(check_moments, **options) for name, options in MOMENTS.items()}
_BOUND = {name: functools.partial(check_bound, **options) for name, options in BOUND.items()}
CHECKS = dict.fromkeys(("_sum_chunks", "_merge_chunks"), _MOMENTS) | dict.fromkeys(
    ("_scale_statistics", "_bound_forward", "_bound_backward"), _BOUND
)
