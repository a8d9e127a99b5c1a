"""The mean or sum of losses over the pixels that count: the raw operator that the losses' own autograd calls."""

from __future__ import annotations

import torch

from fastuda.ops import _dispatch, _library
from fastuda.reference import pixel_mean as _reference


def _fake(losses, others, labels, num_classes, ignore_index, mean):
    result = losses.new_empty(())
    return result, losses.new_empty(0 if others is None else ()), labels.new_empty((), dtype=torch.int64)


# Not differentiable: the gradient of each pixel is the incoming one, over the divisor, and the caller's
# backward gives ignored pixels none.
pixel_mean = _library.define(
    "pixel_mean(Tensor losses, Tensor? others, Tensor labels, int num_classes, int ignore_index, bool mean) "
    "-> (Tensor value, Tensor other_value, Tensor divisor)",
    _reference.pixel_mean,
    _fake,
)
_dispatch.serve("pixel_mean")
