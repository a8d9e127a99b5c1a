"""Small cases for the launchers of full covariances; see kernel_cases.py."""

from __future__ import annotations

import contextlib
import functools
from unittest import mock

import torch
import triton_room
from close import assert_as_accurate
from contract import make

from fastuda.reference import contrastive_bound as bound_reference
from fastuda.reference.class_moments import class_moments as moments_reference

shared = triton_room.load_file(triton_room.HERE / "kernel_cases.py", "triton_room_kernel_cases")
F32, F16, BF16, EPS = shared.F32, shared.F16, shared.BF16, shared.EPS


@contextlib.contextmanager
def constants(module, values: dict):
    """The module with other sizes of its parts, so that few pixels reach all of them."""
    with contextlib.ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def check_moments(
    shape=(2, 21, 5, 9), classes=3, dtype=F32, *, last=False, strided=False, ignore_index=255, card=80, offset=0.0,
    constant=False, change=None, bad=None, terms=6, eps=EPS, **sizes,
) -> None:  # fmt: skip
    features, labels = make(shape, classes, dtype)
    features = (features[..., :1, :1].expand(shape) if constant else features + offset).to(dtype)
    labels = labels if change is None else change(labels)
    if bad is not None:  # in class 1, whose row and column alone may show it
        at = (labels == 1).nonzero()[2]
        features[at[0], 0, at[1], at[2]] = bad
    features, valid = shared.dirty(features, labels, classes, ignore_index)
    clean = features.masked_fill(~valid.unsqueeze(1), 0)
    truth = moments_reference(clean.double(), labels, classes, "full", ignore_index)
    plain = moments_reference(clean, labels, classes, "full", ignore_index)
    if strided:
        features, labels = shared.gaps(features), shared.gaps(labels)
    elif last:
        features = features.contiguous(memory_format=torch.channels_last)
    module = triton_room.kernel_module("class_moments_full")
    with constants(module, sizes):
        count, mean, m2 = shared.on_card(
            card, lambda: module.class_moments_full(features, labels, classes, ignore_index, terms=terms)
        )
    assert torch.equal(count, truth.count), f"count {count.tolist()} instead of {truth.count.tolist()}"
    assert_as_accurate(mean, plain.mean, truth.mean, EPS, "mean")
    assert torch.equal(mean.isnan(), truth.mean.isnan()), "infinity became NaN, or the reverse"
    assert_as_accurate(m2, plain.m2, truth.m2, eps, "m2")
    for ours, usual, exact in zip(m2, plain.m2, truth.m2, strict=True):
        assert_as_accurate(ours, usual, exact, 4 * eps, "m2 of a class")
    assert torch.equal(m2.nan_to_num(), m2.mT.nan_to_num()), "not symmetric"
    assert not m2[truth.count == 1].any(), "one pixel has no spread"
    assert not mean[truth.count == 0].any() and not m2[truth.count == 0].any(), "an empty class is not zero"
    assert not (m2.diagonal(dim1=1, dim2=2) < 0).any(), "a negative spread"


SHORT = {"SHORTEST_PANEL": 32, "SHORTEST_CHUNK": 128}
MOMENTS = {
    "channels_last": dict(last=True),
    "panels": dict(shape=(1, 14, 30, 31), last=True, **SHORT),
    "strided bfloat16": dict(dtype=BF16, strided=True),
    "another ignore_index": dict(ignore_index=1),
    "tiles of 128": dict(shape=(1, 130, 7, 9), last=True, dtype=F16),
    "tiles of 64, Blackwell": dict(card=100, shape=(1, 140, 7, 9), last=True),
    "Hopper": dict(card=90, shape=(1, 33, 7, 11), last=True),
    "most chunks": dict(shape=(1, 2, 50, 50), SHORTEST_CHUNK=128, MOST_CHUNKS=4),
    "a large offset": dict(offset=1000.0, shape=(1, 5, 15, 40), last=True),
    "a large offset, bfloat16": dict(offset=1000.0, dtype=BF16, shape=(1, 5, 15, 40)),
    "constant features": dict(constant=True, shape=(1, 33, 9, 9), classes=9, last=True),
    "infinity": dict(bad=float("inf")),
    "NaN in a later panel, the first class empty": dict(
        bad=float("nan"), shape=(1, 10, 30, 31), change=lambda y: y.where(y != 0, 2), **SHORT
    ),
    "infinity first": dict(bad=-float("inf"), change=lambda y: y * 0 + 1, shape=(1, 3, 1, 3)),
    "nothing": dict(change=lambda y: y * 0 + 255),
    "three products": dict(terms=3, eps=2.0**-15),
    "one product": dict(terms=1, eps=2.0**-7),
    "no tensor cores, tiles and panels": dict(
        card=75,
        shape=(1, 70, 32, 60),
        classes=2,
        last=True,
        change=lambda y: y.where(y < 0, 1),
        FINISHED_AT_ONCE=32,
        **SHORT,
    ),  # fmt: skip
    "many classes, some of one pixel": dict(classes=70, shape=(1, 3, 9, 11)),
    "many chunks, one class in the last": dict(
        shape=(1, 1, 95, 100), classes=2, change=lambda y: y.where(torch.arange(95).view(-1, 1) > 80, 1), **SHORT
    ),
}


def covariances(classes: int, channels: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(2)
    root = torch.randn(classes, channels, channels, generator=g) / channels**0.5
    return root @ root.mT


def check_bound(
    shape=(2, 21, 5, 9), classes=5, dtype=F32, *, normalize=True, temperature=2.0, strided=False, ignore_index=255,
    card=80, zero=False, scale=65536.0, **sizes,
) -> None:  # fmt: skip
    features, labels = make(shape, classes, dtype)
    g = torch.Generator().manual_seed(1)
    mean, sigma = torch.randn(classes, shape[1], generator=g), covariances(classes, shape[1])
    if zero:
        features[0, :, 1, 1], labels[0, 1, 1], mean[1], sigma[1] = 0, 0, 0, 0
    features, valid = shared.dirty(features, labels, classes, ignore_index)
    clean = features.masked_fill(~valid.unsqueeze(1), 0)
    grad = (scale * (0.5 + torch.rand(labels.shape, generator=g))).where(valid, float("nan"))
    options = temperature, normalize, ignore_index

    def reference(kind):
        q = clean.to(kind) if kind == torch.float64 else clean
        given = mean.to(kind), sigma.to(kind)
        loss, posterior = bound_reference.forward(q, labels, *given, *options)
        weight = grad.to(kind).nan_to_num()
        return loss, posterior, bound_reference.backward(weight, q, labels, *given, posterior, *options)

    plain, truth = reference(F32), reference(torch.float64)
    if strided:
        features, labels, grad = shared.gaps(features), shared.gaps(labels), shared.gaps(grad)
    else:
        features = features.contiguous(memory_format=torch.channels_last)
    module, inputs = triton_room.kernel_module("contrastive_bound_full"), (features, labels, mean, sigma)
    with constants(module, sizes):
        loss, posterior = shared.on_card(card, lambda: module.forward(*inputs, *options))
        slope = shared.on_card(card, lambda: module.backward(grad, *inputs, posterior, *options))
    shared.agree(features, valid, (loss, posterior, slope), plain, truth)


BOUND = {
    "channels_last": {},
    "strided bfloat16": dict(dtype=BF16, strided=True),
    "float16": dict(dtype=F16, temperature=20.0, normalize=False),
    "strided": dict(strided=True, normalize=False, shape=(2, 9, 7, 11)),
    "two tiles and a pixel": dict(shape=(1, 3, 1, 257)),
    "chunks, tiles of channels": dict(shape=(1, 70, 3, 101), classes=3, CHUNK=128 * 70),
    "no tensor cores": dict(card=75, shape=(1, 70, 3, 33), classes=3),
    "Hopper, 16 bits": dict(card=90, dtype=BF16, shape=(1, 140, 3, 7), classes=2, temperature=20.0),
    "Blackwell, large covariances": dict(card=100, shape=(1, 70, 3, 50), classes=4, CACHED=0),
    "one channel, float16": dict(dtype=F16, shape=(1, 1, 5, 9), normalize=False, temperature=0.7, scale=16.0),
    "one channel, bfloat16": dict(dtype=BF16, shape=(1, 1, 5, 9), normalize=False, temperature=0.7),
    "20 classes": dict(classes=20, temperature=5.0),
    "64 classes": dict(classes=64, shape=(1, 9, 5, 9)),
    "length 0": dict(zero=True),
    "length 0, raw": dict(zero=True, normalize=False),
    "another ignore_index": dict(ignore_index=1),
    "a small temperature": dict(temperature=0.5, shape=(1, 9, 5, 9)),
    "a covariance beyond a block": dict(shape=(1, 68, 1, 6), temperature=1.0, classes=2),
}

_MOMENTS = {name: functools.partial(check_moments, **options) for name, options in MOMENTS.items()}
_BOUND = {name: functools.partial(check_bound, **options) for name, options in BOUND.items()}
CHECKS = dict.fromkeys(
    ("_sort_pixels", "_scan_counts", "_find_pivots", "_multiply_panels", "_add_panels"), _MOMENTS
) | dict.fromkeys(("_inverse_lengths", "_quadratic_forms", "_losses", "_slopes", "_remove_along"), _BOUND)
