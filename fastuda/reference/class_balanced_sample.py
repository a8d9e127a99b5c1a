"""Pixels drawn without replacement by class (CPSL Eq. 8-9; DRSL's T_e a class)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.reference._pixels import usable
from fastuda.reference._random import random_bits


def class_balanced_sample(labels: Tensor, seed: Tensor, num_classes: int, count: int, ignore_index: int) -> Tensor:
    """Of image b, the M_c = floor(count n_c / n) pixels of each class c with the smallest random number, topped up.

    labels (B, P) of any integer type; n_c of the n valid pixels have class c.  The top-up to min(count, n) takes the
    valid pixels left over with the smallest number of a second stream.  Returns (B, count) int64: pixels in rising
    order, then -1.
    """
    valid, index = usable(labels, num_classes, ignore_index)
    label = index.where(valid, num_classes)
    sizes = _class_sizes(label, num_classes)
    total = sizes.sum(1, keepdim=True)
    quota = count * sizes // total.clamp(min=1)
    chosen = valid & (_rank_in_class(label, _keys(labels, seed, 0), sizes) < _of_class(quota, label))
    missing = total.clamp(max=count) - chosen.sum(1, keepdim=True)
    left_over = _keys(labels, seed, 1).masked_fill(~valid | chosen, torch.iinfo(torch.int64).max)
    chosen = chosen | (left_over.argsort(1).argsort(1) < missing)
    pixels = torch.arange(labels.shape[1], device=labels.device)
    found = pixels.expand(chosen.shape).masked_fill(~chosen, labels.shape[1]).sort(1).values[:, :count]
    found = found.masked_fill(found == labels.shape[1], -1)
    return torch.nn.functional.pad(found, (0, count - found.shape[1]), value=-1)


def sample_per_class(labels: Tensor, seed: Tensor, num_classes: int, per_class: int, ignore_index: int) -> Tensor:
    """Of image b and class c, the min(per_class, n_c) pixels with the smallest random number, in rising order, then -1.

    labels (B, P) of any integer type.  Returns (B, K, per_class) int64.
    """
    valid, index = usable(labels, num_classes, ignore_index)
    label = index.where(valid, num_classes)
    sizes = _class_sizes(label, num_classes)
    chosen = valid & (_rank_in_class(label, _keys(labels, seed, 0), sizes) < per_class)
    images, pixels = labels.shape
    number = torch.arange(pixels, device=labels.device).expand(images, -1)
    # Among the chosen, the rank by pixel number is the place in the result; all others fall into a last, dropped place.
    place = _rank_in_class(label.masked_fill(~chosen, num_classes), number, sizes.clamp(max=per_class))
    position = (label * per_class + place).masked_fill(~chosen, num_classes * per_class)
    result = number.new_full((images, num_classes * per_class + 1), -1).scatter(1, position, number)
    return result[:, :-1].contiguous().view(images, num_classes, per_class)


def _keys(labels: Tensor, seed: Tensor, stream: int) -> Tensor:
    """(B, P) different numbers in random order: 31 random bits, then the pixel's number."""
    images, pixels = labels.shape
    number = torch.arange(images * pixels, device=labels.device).view(images, pixels)
    return (random_bits(seed, stream, number) >> 1 << 32) + number


def _class_sizes(label: Tensor, num_classes: int) -> Tensor:
    sizes = label.new_zeros(label.shape[0], num_classes + 1).scatter_add(1, label, torch.ones_like(label))
    return sizes[:, :-1]


def _of_class(values: Tensor, label: Tensor) -> Tensor:
    """values (B, K) at each pixel's class; 0 for ignored pixels."""
    return torch.nn.functional.pad(values, (0, 1)).gather(1, label)


def _rank_in_class(label: Tensor, keys: Tensor, sizes: Tensor) -> Tensor:
    """How many pixels of the same image and class have a smaller key."""
    by_key = keys.argsort(1)
    order = by_key.gather(1, label.gather(1, by_key).argsort(dim=1, stable=True))
    place = torch.empty_like(order).scatter(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return place - _of_class(sizes.cumsum(1) - sizes, label)
