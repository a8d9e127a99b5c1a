"""Launches of class_moments and contrastive_bound at the sizes of SDCA on GTA5 -> Cityscapes: 8 x 90 x 160 pixels."""

from __future__ import annotations

import itertools

import torch
from aot import Case

CLASSES = 19
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


MOST_CLASSES = 64  # of the Triton bound


def pixels(channels: int, dtype: torch.dtype, layout=torch.channels_last, label_dtype=torch.uint8):
    features = torch.empty(8, channels, 90, 160, dtype=dtype, device="meta").to(memory_format=layout)
    return features, torch.empty(8, 90, 160, dtype=label_dtype, device="meta")


def moments(module, channels, dtype, layout=torch.channels_last) -> None:
    module.class_moments(*pixels(channels, dtype, layout), CLASSES, 255)


def bound(
    module, channels, dtype, layout=torch.channels_last, covariance=True, normalize=True, classes=CLASSES
) -> None:
    features, labels = pixels(channels, dtype, layout)
    mean = torch.empty(classes, channels, device="meta")
    inputs = features, labels, mean, mean if covariance else None
    loss, posterior = module.forward(*inputs, 100.0, normalize, 255)
    module.backward(loss, *inputs, posterior, 100.0, normalize, 255)


def _cases():
    for dtype, channels in itertools.product(DTYPES, (256, 2048)):
        name, first = f"A={channels}, {str(dtype)[6:]}", dtype == DTYPES[0] and channels == 256
        yield Case(
            f"class_moments, {name}", "class_moments", lambda m, a=channels, d=dtype: moments(m, a, d),
            {"_sum_chunks": "bf16"}, first,
        )  # fmt: skip
        yield Case(
            f"contrastive_bound, {name}", "contrastive_bound", lambda m, a=channels, d=dtype: bound(m, a, d),
            {"_bound_forward": "bf16", "_bound_backward": "bf16"}, first,
        )  # fmt: skip
    nchw, float32 = torch.contiguous_format, torch.float32
    yield Case("class_moments, A=256, NCHW", "class_moments", lambda m: moments(m, 256, float32, nchw))
    yield Case("contrastive_bound, A=256, NCHW", "contrastive_bound", lambda m: bound(m, 256, float32, nchw))
    many = "contrastive_bound, 64 classes"
    yield Case(many, "contrastive_bound", lambda m: bound(m, 256, float32, classes=MOST_CLASSES))
    plain = {"covariance": False, "normalize": False}
    yield Case("contrastive_bound, plain", "contrastive_bound", lambda m: bound(m, 256, float32, **plain))


CASES = list(_cases())
