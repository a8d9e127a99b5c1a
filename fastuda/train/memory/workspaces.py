"""Workspaces: what the GPU kernels of this package allocate beside their results and free before they return.

For each operator the larger one of CUDA C++ on a card of 144 multiprocessors and of Triton's launcher.
tests/cuda/test_workspaces.py and tests/kernels/test_workspaces.py compare these figures with the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from torch import Tensor

from fastuda.ops import _library
from fastuda.ops._dispatch import TABLE

MULTIPROCESSORS = 144  # of the largest card; most workspaces grow with their number
MIB = 2**20
_GAPS = 16 * 256  # parts of a workspace begin at multiples of 256 bytes
_GROUP = 64 * MIB  # kPartialBytes, kGroupBytes in csrc: full covariances are computed in groups of this size


def inside(name: str, arguments: tuple) -> int | Callable:
    """Bytes of the workspace of torch.ops.fastuda.<name> on a GPU, or the reference, if no GPU kernel serves it."""
    if name not in TABLE:
        return _library.reference(name)
    return WORKSPACES[name](*arguments) + _GAPS if name in WORKSPACES else 0


def _wide(x: Tensor) -> int:
    """Bytes of a number of the type that sums are accumulated in."""
    return max(4, x.element_size())


def _class_moments(features, labels, classes, ignore):
    # 5 % of the features in float32 at most, or two blocks a multiprocessor.
    chunks = min(2 * MULTIPROCESSORS, max(1, labels.numel() // (60 * classes)))
    return chunks * classes * 3 * features.shape[1] * _wide(features) + 2 * chunks * classes * features.shape[1] // 8


def _class_moments_full(features, labels, classes, ignore):
    pixels, channels, wide = labels.numel(), features.shape[1], _wide(features)
    panels = min(512, ceil(pixels / 256)) + classes
    width = 64 if channels <= 192 or wide == 8 else 128
    squares = ceil(channels / width)
    square = panels * width**2 * wide
    partials = min(square * (squares * (squares + 1) // 2), max(_GROUP, square))
    # Triton: partial triangles of at most a tenth of the features.
    partials = max(partials, pixels * channels * wide // 10)
    lists = 8 * pixels + 4 * ceil(pixels / 256) * classes
    return lists + (2 * classes + panels) * channels * wide + partials


def _bound_statistics(features, mean):
    return 2 * features.shape[1] * ceil(len(mean) / 20) * 20 * _wide(features)


def _bound(features, mean, covariance, backward):
    room = _bound_statistics(features, mean)
    if covariance is None or covariance.dim() == 2:
        return room
    width = 64 if features.shape[1] <= 192 else 128
    pixels = features.numel() // features.shape[1]
    rows, each = ceil(features.shape[1] / width) * width, (2 if backward else 1) * _wide(features)
    group = width * min(max(1, _GROUP // (rows * each * width)), ceil(pixels / width))
    return room + len(mean) * 65 * _wide(features) + group * rows * each


def _bound_forward(features, labels, mean, covariance, *options):
    return _bound(features, mean, covariance, False)


def _bound_backward(grad, features, labels, mean, covariance, *options):
    return _bound(features, mean, covariance, True)


def _sinkhorn(scores, marginal, epsilon, iterations, current):
    problems, rows, classes = scores.shape
    blocks = min(max(1, MULTIPROCESSORS // problems), ceil(rows / 16))
    return problems * blocks * (4 * classes * 8 + 2 * 4)


def _mode_backward(grad, grad_cross_entropy, features, labels, modes, *saved):
    return 4 * MULTIPROCESSORS * modes.numel() * _wide(features)


def _sort(rows, buckets):
    tiles, bits = ceil(rows / 2048), 8
    return 16 * rows + 4 * (tiles << bits) + 4 * (1 << bits) + 4 * (buckets + 1)


def _select_triplets(source_class, source_mode, target_class, target_mode, seed, classes, modes):
    return _sort(len(source_class), classes * modes)


def _triplet_backward(grad, target, source, *partners):
    rows, channels = target.shape
    return _sort(2 * rows, len(source)) + ceil(2 * rows / 64) * 2 * channels * _wide(target)


def _draw(labels, classes, lists):
    images, pixels = labels.shape[0], labels[0].numel()
    # Triton: as many candidates of each block of pixels as there are other classes.
    candidates = 8 * (classes - 1) if lists == 1 else 0
    return images * (classes * (16 + 4 * 2048) + 24 + (8 * lists + candidates) * ceil(pixels / 1024))


def _cells(scores, target, with_slope):
    """Partial sums of an upsampled loss at the nodes of the grid (``cut_cells``, ``partial_sums`` in csrc)."""
    images, classes, height, width = scores.shape
    size = max(1, target.shape[-1])
    tile = min(max(1, (127 - ceil(size / (2 * width))) * width // size), width, 128)
    tiles, parts = ceil(width / tile), max(1, target.shape[-2] // height // 16)
    blocks = images * height * parts * tiles
    if not with_slope:
        return 16 * blocks
    strips, rows = ceil(target.shape[-2] / 32), max(1, target.shape[-2] - 1)
    slots = min(31 * max(height, 1) // rows + 3, height + 1)
    nodes = max(blocks * (tile + 1), images * strips * slots * width)
    return 16 * blocks + nodes * 2 * classes * _wide(scores)


def _cross_entropy(logits, target, weight, pixel_weight, align, ignore, smoothing, with_map, with_slope):
    return _cells(logits, target, with_slope)


def _lovasz(logits, target, bins, probabilities, align, ignore, with_slope):
    if not bins:
        classes, pixels, wide = logits.shape[1], target.numel(), _wide(logits)
        group, tiles = min(max(1, (1 << 24) // max(1, pixels)), classes), ceil(pixels / 2048)
        order = group * (pixels * (2 * wide + 8) + 1024 * tiles + 4 * tiles + 1028) + 8 * classes * tiles
        planes = 0 if probabilities else (3 if with_slope else 2) * pixels * wide
        # The exact form has no further sums than those of the nodes.
        return (_cells(logits, target, True) if with_slope else 0) + order + planes + classes * (4 + wide)
    return _cells(logits, target, with_slope) + logits.shape[1] * (bins * (8 + _wide(logits)) + 4)


# All other operators of the dispatch table allocate nothing but their results.
WORKSPACES: dict[str, Callable[..., int]] = {
    "class_moments": _class_moments,
    "class_moments_full": _class_moments_full,
    "contrastive_bound_forward": _bound_forward,
    "contrastive_bound_backward": _bound_backward,
    "sinkhorn": _sinkhorn,
    "mode_losses_backward": _mode_backward,
    "select_triplets": _select_triplets,
    "triplet_consistency_backward": _triplet_backward,
    "class_balanced_sample": lambda labels, seed, classes, *_: _draw(labels, classes, 1),
    "sample_per_class": lambda labels, seed, classes, *_: _draw(labels, classes, classes),
    "class_thresholds": lambda confidence, label, classes, *_: classes * (17 * 32 + 4) * 4 + 24,
    "upsample_cross_entropy": _cross_entropy,
    "lovasz_softmax": _lovasz,
    "pixel_mean": lambda *_: 256 * 24,
}
