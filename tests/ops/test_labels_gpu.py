"""Operators that make and count labels, on a GPU: each installed backend against the CPU, and against itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from near_labels import lay_out, logits
from torch import Tensor

from fastuda import ops

SIZE = (93, 121)
THRESHOLDS = torch.linspace(0.2, 0.7, 19)


def _rectify(x: Tensor) -> tuple[Tensor, ...]:
    soft = logits(2, 19, 6, 9, seed=1).softmax(1).to(x.device)
    return (ops.prototype_rectify(x, soft, size=SIZE, temperature=0.5),)


def _patches(x: Tensor) -> tuple[Tensor, ...]:
    offsets = torch.tensor([[[-9, 4]], [[60, 70]]], device=x.device)
    return tuple(ops.aggregate_patches(x.unsqueeze(1), offsets, SIZE, stride=8, full=x, bins=32, return_volume=True))


def _confusion(x: Tensor) -> tuple[Tensor, ...]:
    return (ops.confusion_matrix(x.argmax(1).to(torch.uint8), x.argmin(1), 18),)


CALLS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "pseudo_labels": lambda x: tuple(ops.pseudo_labels(x, size=SIZE, threshold=0.5, return_confidence=True)),
    "pseudo_labels, balanced": lambda x: (ops.select_balanced(x, THRESHOLDS.to(x.device), size=SIZE),),
    "confidence_histogram": lambda x: (ops.confidence_histogram(x, size=SIZE, bins=64),),
    "prototype_rectify": _rectify,
    "aggregate_patches": _patches,
    "confusion_matrix": _confusion,
}


def compare(found: Tensor, expected: Tensor, exact: bool) -> None:
    """Labels and bins of a few pixels may be others', where two classes or bins are as near as rounding."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    found = found.cpu()
    if exact:
        assert torch.equal(found, expected)
    elif found.dtype == torch.uint8:
        assert (found != expected).sum() <= 2 + found.numel() / 1000
    elif found.dtype == torch.int64:
        assert (found - expected).abs().sum() <= 4 + expected.sum() / 250
    else:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def check(name: str, dtype: torch.dtype, layout: str, device: str) -> None:
    scores = lay_out(logits(2, 19, 11, 15, dtype=dtype), layout)
    call = CALLS[name]
    expected = call(scores)
    given = lay_out(scores.to(device), layout)
    found, again = call(given), call(given)
    for ours, other, truth in zip(found, again, expected, strict=True):
        assert torch.equal(ours, other), "two runs differ"
        compare(ours, truth, name == "confusion_matrix")


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "inside_nan"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("name", CALLS)
def test_as_on_the_cpu(name, backend, dtype, layout):
    if backend not in ops.backends(name.split(",")[0]):
        pytest.skip(f"{backend} does not serve this card")
    with ops.use_backend(backend):
        check(name, dtype, layout, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", CALLS)
def test_float64(name):
    check(name, torch.float64, "nchw", "cuda")


@pytest.mark.parametrize("name", CALLS)
def test_the_comparison_itself(name):
    """On the CPU twice, and against a result of other scores, which must not pass."""
    check(name, torch.float32, "channels_last", "cpu")
    others = logits(2, 19, 11, 15, seed=5, scale=1.0)
    for found, expected in zip(CALLS[name](others), CALLS[name](logits(2, 19, 11, 15)), strict=True):
        with pytest.raises(AssertionError):
            compare(found, expected, name == "confusion_matrix")
