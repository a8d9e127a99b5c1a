"""Label maps against float64: which labels rounding excuses, and how many; scores of every layout and size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LAYOUTS = ("nchw", "channels_last", "transposed", "expanded", "class_slice", "inside_nan")
# (h, w) of the scores and (height, width) of the labels: not multiples, single rows, the scores' own, smaller ones.
SIZES = (
    ((9, 13), (70, 101)),
    ((5, 33), (37, 33)),
    ((1, 7), (3, 50)),
    ((7, 1), (50, 3)),
    ((4, 40), (4, 40)),
    ((19, 37), (5, 11)),
    ((17, 30), (33, 31)),
    ((4, 20), (9, 101)),  # a vector of pixels between five scores
    ((3, 4), (1, 1)),
    ((1, 1), (9, 35)),
)
ULP = torch.finfo(torch.float32).eps


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, scale: float = 3.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=g)).to(dtype)


def lay_out(scores: Tensor, layout: str) -> Tensor:
    """Scores (N, K, h, w), of other strides; "expanded" repeats the first image."""
    n, k, h, w = scores.shape
    if layout == "channels_last":
        return scores.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return scores.mT.contiguous().mT
    if layout == "expanded":
        return scores[:1].expand(n, -1, -1, -1)
    if layout == "class_slice":
        room = torch.full((n, h, w, k + 3), torch.nan).to(scores)
        return room.permute(0, 3, 1, 2)[:, 1:-2].copy_(scores)
    if layout == "inside_nan":
        return torch.full((n, k + 1, h + 2, 2 * w), torch.nan).to(scores)[:, 1:, 1:-1, ::2].copy_(scores)
    return scores


def upsample(scores: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """In float64, by PyTorch."""
    return F.interpolate(scores.double(), size=size, mode="bilinear", align_corners=align_corners)


def assert_labels(
    ours: Tensor, keys: Tensor, near: float, p: Tensor | None = None, least: Tensor | None = None, band: float = 0.0
) -> None:
    """ours (N, H, W) is argmax_c keys, 255 unless p >= least there; all of them float64 (N, K, H, W), least (K,).

    A class within ``near`` of the largest key may be the label, and p within ``band`` of least may be kept or not.
    Other labels than float64's are counted: more than 2 and one in a thousand are too many.
    """
    assert ours.dtype == torch.uint8 and ours.shape == keys.shape[:1] + keys.shape[2:]
    place = keys.argmax(1, keepdim=True)
    may = keys >= keys.gather(1, place) - near
    if p is None:
        truth, may_drop = place.squeeze(1), torch.zeros_like(may[:, 0])
    else:
        least = least.double().view(-1, 1, 1)
        truth = place.where((p >= least).gather(1, place), 255).squeeze(1)
        may_drop = (may & (p < least + band)).any(1)
        may = may & (p >= least - band)
    labels = ours.long()
    inside = labels < keys.shape[1]
    allowed = may.gather(1, labels.where(inside, 0).unsqueeze(1)).squeeze(1)
    wrong = ~torch.where(labels == 255, may_drop, allowed & inside)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} labels are wrong, the first at {wrong.nonzero()[0]}"
    different = int((labels != truth).sum())
    assert different <= 2 + labels.numel() / 1000, f"{different} of {labels.numel()} labels differ by rounding"


def assert_same_for_threads(call: Callable[[], tuple[Tensor, ...]]) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(call())
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True)), "other bits with more threads"


def assert_written(call: Callable[[], tuple[Tensor, ...]]) -> None:
    """The same results where every new tensor starts as NaN or as its largest number."""
    plain = call()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert all(torch.equal(a, b) for a, b in zip(call(), plain, strict=True)), "something is left unwritten"
    finally:
        torch.use_deterministic_algorithms(False)


def assert_traces(call: Callable[[], tuple[Tensor, ...]]) -> None:
    """Under torch.compile and autocast the same bits."""
    plain = call()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(compiled(), plain, strict=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(call(), plain, strict=True))
    assert not any(tensor.requires_grad for tensor in plain)
