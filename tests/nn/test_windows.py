"""Windows over an image: coverage, and the same labels as the whole image where the network is local."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fastuda.nn.windows import window_offsets, windowed_labels


@pytest.mark.parametrize("size", [(1, 1), (7, 31), (64, 64), (65, 97)])
@pytest.mark.parametrize("window", [(1, 1), (5, 8), (32, 32), (100, 200)])
@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.9])
def test_windows_cover_the_image_and_overlap(size, window, overlap):
    offsets = window_offsets(size, window, overlap)
    covered = torch.zeros(size, dtype=torch.int64)
    for row, column in offsets.tolist():
        assert 0 <= row <= max(0, size[0] - window[0]) and 0 <= column <= max(0, size[1] - window[1])
        covered[row : row + window[0], column : column + window[1]] += 1
    assert covered.min() >= 1
    for d in (0, 1):
        starts = offsets[:, d].unique()
        gaps = starts.diff()
        assert len(gaps) == 0 or gaps.max() <= max(1, int(window[d] * (1 - overlap)))


def test_no_window_more_than_needed():
    assert window_offsets((64, 128), (64, 64), 0.0).tolist() == [[0, 0], [0, 64]]
    assert window_offsets((64, 128), (64, 64), 0.5).tolist() == [[0, 0], [0, 32], [0, 64]]


@pytest.mark.parametrize(
    "message, options",
    {
        "overlap must be at least 0 and below 1, got 1": {"overlap": 1},
        "overlap must be": {"overlap": -0.1},
        "window must be at least one pixel each way, got 0 x 3": {"window": (0, 3)},
    }.items(),
)
def test_bad_windows_are_named(message, options):
    with pytest.raises(ValueError, match=message):
        window_offsets(**{"size": (4, 4), "window": (2, 2)} | options)


def pixelwise(images):
    return torch.cat([images, images.sum(1, keepdim=True) / 2, 1 - images[:, :1]], 1)


def test_a_pixelwise_network_sees_no_window():
    images = torch.rand(2, 3, 37, 53, generator=torch.Generator().manual_seed(0))
    whole = pixelwise(images).argmax(1)
    for window, overlap in (((37, 53), 0.0), ((16, 20), 0.3), ((99, 10), 0.5)):
        assert torch.equal(windowed_labels(pixelwise, images, (37, 53), window, overlap).label.long(), whole)


def test_votes_are_the_mean_softmax_of_the_windows():
    images = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(1))

    def predict(x):  # knows its window's mean, so that windows disagree
        return F.avg_pool2d(pixelwise(x - x.mean((2, 3), keepdim=True)) * 9, 4)

    window, size = (16, 16), (24, 40)
    votes, count = torch.zeros(1, 5, *size), torch.zeros(size)
    for row, column in window_offsets(size, window, 0.5).tolist():
        part = slice(row, row + 16), slice(column, column + 16)
        logits = predict(images[:, :, *part])
        votes[:, :, *part] += F.interpolate(logits, size=window, mode="bilinear", align_corners=True).softmax(1)
        count[part] += 1
    top = (votes / count).topk(2, 1)
    sure = top.values[:, 0] - top.values[:, 1] > 1e-5
    ours = windowed_labels(predict, images, size, window, 0.5).label
    assert sure.float().mean() > 0.99 and torch.equal(ours[sure].long(), top.indices[:, 0][sure])


@pytest.mark.parametrize("size", [(74, 106), (36, 54), (100, 61)])
def test_labels_of_another_size_leave_no_gap(size):
    images = torch.rand(1, 3, 37, 53, generator=torch.Generator().manual_seed(2))
    labels = windowed_labels(pixelwise, images, size, (13, 17), 0.0).label
    assert labels.shape == (1, *size) and (labels < 5).all()
