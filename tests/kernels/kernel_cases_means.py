"""Small cases for the launcher of pixel_mean; see kernel_cases.py."""

from __future__ import annotations

import functools
import math

import torch
import triton_room

shared = triton_room.load_file(triton_room.HERE / "kernel_cases.py", "triton_room_kernel_cases")
samplers = triton_room.load_file(triton_room.HERE / "kernel_cases_samplers.py", "triton_room_kernel_cases_samplers")


def check_mean(
    shape=(2, 21, 40), classes=5, label_dtype=torch.int64, *, two=True, mean=True, strided=False, ignore_index=255,
    ignored=None, **sizes,
) -> None:  # fmt: skip
    """ignored: a label that all pixels get."""
    g = torch.Generator().manual_seed(1)
    losses = torch.randn(2, *shape, generator=g).exp()
    odd = torch.tensor([255, classes] if label_dtype == torch.uint8 else [255, classes, -1, 2**31 - 1])
    odd = odd[torch.randint(0, len(odd), shape, generator=g)]
    labels = torch.randint(0, classes, shape, generator=g)
    labels = odd.where(torch.rand(shape, generator=g) < 0.3, labels).to(label_dtype)
    labels = labels if ignored is None else torch.full_like(labels, ignored)
    wide = labels.long()
    valid = (wide >= 0) & (wide < classes) & (wide != ignore_index)
    truth = [math.fsum(each[valid].double().tolist()) for each in losses[: 1 + two]]
    count = int(valid.sum())
    losses = losses.masked_fill(~valid, torch.nan)
    first, second = losses
    if strided:
        first, second = shared.gaps(first), shared.gaps(second.mT).mT
        labels = shared.gaps(labels.permute(1, 2, 0)).permute(2, 0, 1)
    module = triton_room.kernel_module("pixel_mean")
    with samplers.sizes_of(module, sizes):
        *found, divisor = module.pixel_mean(first, second if two else None, labels, classes, ignore_index, mean)
    assert divisor.dtype == torch.int64 and divisor.item() == (max(1, count) if mean else count), "number of pixels"
    assert found[1].shape == (() if two else (0,))
    for ours, true in zip(found[: 1 + two], truth, strict=True):
        true /= max(1, count) if mean else 1
        assert ours.dtype == torch.float32 and ours.shape == ()
        assert abs(ours.item() - true) <= 2**-23 * abs(true), f"{ours.item()} instead of {true}"


MEANS = {
    "plain": {},
    "one loss": dict(two=False),
    "sums": dict(mean=False),
    "one sum": dict(two=False, mean=False, label_dtype=torch.int32),
    "uint8, strided": dict(label_dtype=torch.uint8, strided=True),
    "strided": dict(strided=True, mean=False),
    "rows": dict(shape=(3001,)),
    "several stretches": dict(shape=(2500,), BLOCK=128, STRETCH=300),
    "stretches of several blocks": dict(shape=(2, 40, 50), BLOCK=64, STRETCH=200, MOST_PROGRAMS=8),
    "another ignore_index": dict(ignore_index=2),
    "ignore_index beyond the classes": dict(ignore_index=-100),
    "no label": dict(ignored=255),
    "no label, sums": dict(ignored=255, mean=False),
    "one pixel": dict(shape=(1, 1, 1), ignored=0),
    "no pixel": dict(shape=(0, 3, 4)),
}
CHECKS = dict.fromkeys(
    ("_sum_pixels", "_divide_sums"), {name: functools.partial(check_mean, **options) for name, options in MEANS.items()}
)
