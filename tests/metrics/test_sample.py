"""The class-balanced sample of pixels: what is in it, its odds, and what it does not depend on."""

from __future__ import annotations

import pytest
import torch

from fastuda.metrics import PixelSample

K, A = 3, 4


def pixels(count: int = 60):
    """Features whose first channel is the pixel's number; class 2 has four pixels, every tenth pixel is ignored."""
    labels = torch.arange(count) % 2
    labels[[3, 22, 41, 58]] = 2
    labels[::10] = 255
    return torch.arange(count).float().unsqueeze(1).repeat(1, A), labels


def filled(seed: int, parts: int = 1, per_class: int = 6) -> PixelSample:
    features, labels = pixels()
    sample = PixelSample(K, A, per_class, seed)
    for rows, label in zip(features.chunk(parts), labels.chunk(parts), strict=True):
        sample.update(rows, label)
    return sample


@pytest.mark.parametrize("parts", [1, 3, 60])
def test_it_holds_different_pixels_of_their_own_class(parts):
    _, labels = pixels()
    features, found = filled(0, parts).compute()
    numbers = features[:, 0].long()
    assert torch.equal(labels[numbers], found) and len(numbers.unique()) == len(numbers)
    assert found.bincount().tolist() == [6, 6, 4]  # all four pixels of the rare class
    assert torch.equal(features, numbers.unsqueeze(1).expand(-1, A).float())


def test_every_pixel_of_a_class_has_the_same_chance_in_whatever_part_it_comes():
    _, labels = pixels()
    runs, drawn = 600, torch.zeros(60)
    for seed in range(runs):
        drawn[filled(seed, parts=4).compute()[0][:, 0].long()] += 1
    for k in (0, 1):
        of_class = drawn[labels == k]
        chance = 6 / len(of_class)
        spread = (runs * chance * (1 - chance)) ** 0.5
        assert ((of_class - runs * chance).abs() < 4.5 * spread).all(), (k, of_class)
    assert (drawn[labels == 255] == 0).all() and (drawn[labels == 2] == runs).all()


def test_the_seed_decides_and_nothing_grows():
    first, again, other = filled(1), filled(1), filled(2)
    for a, b in zip(first.compute(), again.compute(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.compute()[0], other.compute()[0])
    before = {name: buffer.shape for name, buffer in first.named_buffers()}
    first.update(*pixels(5000))
    assert {name: buffer.shape for name, buffer in first.named_buffers()} == before


def test_maps_are_their_rows():
    features, labels = pixels()
    rows, maps = PixelSample(K, A, 5), PixelSample(K, A, 5)
    rows.update(features, labels)
    maps.update(features.view(2, 5, 6, A).permute(0, 3, 1, 2), labels.view(2, 5, 6).to(torch.uint8))
    for a, b in zip(maps.compute(), rows.compute(), strict=True):
        assert torch.equal(a, b)


def test_half_precision_nothing_and_bad_input():
    sample = PixelSample(K, A, 5)
    sample.update(torch.zeros(0, A), torch.zeros(0, dtype=torch.uint8))
    sample.update(torch.ones(3, A), torch.full((3,), 255))
    features, labels = sample.compute()
    assert features.shape == (0, A) and labels.shape == (0,)
    sample.update(torch.ones(1, A, dtype=torch.bfloat16), torch.tensor([1]))
    assert sample.compute()[0].dtype == torch.float32 and sample.compute()[1].tolist() == [1]
    with pytest.raises(ValueError, match="channels"):
        sample.update(torch.ones(3, A + 1), torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="at least 1"):
        PixelSample(K, A, 0)
