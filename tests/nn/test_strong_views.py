"""Strong views: what moves together, what counts, and the part of stored scores that a view shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fastuda.data.augment import geometric
from fastuda.data.config import Augment
from fastuda.data.seeding import generator
from fastuda.nn.strong_views import (
    StrongView,
    autocontrast,
    crop_scores,
    cut_mix,
    cut_out,
    posterise,
    random_augment,
    rectangle,
    sharpen,
    solarise,
)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def view(images: int = 3, size=(31, 45), grid=(8, 12)) -> StrongView:
    """Every part tells the image it is of: pixels and logits of image n hold n."""
    number = torch.arange(images)
    return StrongView(
        number.view(-1, 1, 1, 1).expand(-1, 3, *size).float().clone(),
        number.view(-1, 1, 1, 1).expand(-1, 5, *grid).float().clone(),
        torch.ones(images, *grid, dtype=torch.bool),
    )


@pytest.mark.parametrize("seed", range(5))
def test_cut_mix_moves_images_and_logits_together(seed):
    before, after = view(), cut_mix(view(), 0.25, draws(seed))
    assert after.mask.all()
    for n in range(3):
        other = (n + 1) % 3
        pixels = after.images[n, 0]
        mixed = pixels == other
        assert mixed.any() and torch.equal(after.images[n], pixels.expand(3, -1, -1)) and (mixed | (pixels == n)).all()
        cells = after.logits[n, 0] == other
        assert 0.1 < cells.float().mean() < 0.5
        # A pixel changes hands where the cell that it lies in does.
        rows, columns = torch.arange(31) * 8 // 31, torch.arange(45) * 12 // 45
        assert torch.equal(mixed, cells[rows][:, columns])
    assert torch.equal(before.images, view().images)
    single = view(1)
    assert cut_mix(single, 0.25, draws()) is single and cut_mix(view(), 0.0).images.shape == view().images.shape


def test_cut_out_counts_nowhere():
    whole = view()
    images = torch.rand(3, 3, 31, 45)
    after = cut_out(whole._replace(images=images), 0.1, draws(1))
    rows, columns = torch.arange(31) * 8 // 31, torch.arange(45) * 12 // 45
    gone = ~after.mask[:, rows][:, :, columns]
    assert gone.flatten(1).any(1).all() and not gone.flatten(1).all(1).any()
    for n in range(3):
        torch.testing.assert_close(
            after.images[n, :, gone[n]], images[n].mean((1, 2))[:, None].expand(-1, gone[n].sum())
        )
        assert torch.equal(after.images[n, :, ~gone[n]], images[n, :, ~gone[n]])
    assert torch.equal(after.logits, whole.logits)


@pytest.mark.parametrize("area", [0.01, 0.25, 1.0])
def test_rectangles_stay_inside_and_have_the_wanted_area(area):
    generator = draws(2)
    shares = []
    for _ in range(300):
        rows, columns = rectangle(40, 60, area, generator)
        assert 0 <= rows.start < rows.stop <= 40 and 0 <= columns.start < columns.stop <= 60
        shares.append((rows.stop - rows.start) * (columns.stop - columns.start) / 2400)
    assert sum(shares) / 300 == pytest.approx(area, rel=0.15) or area == 1.0
    assert rectangle(1, 1, 0.3, generator) == (slice(0, 1), slice(0, 1))


def test_colour_operations():
    images = 255 * torch.rand(2, 3, 8, 9, generator=draws())
    for operation in (posterise, solarise, autocontrast, sharpen):
        out = operation(images, 0.8)
        assert out.shape == images.shape and out.min() >= 0 and out.max() <= 255 + 1e-3
        assert not torch.equal(out, images)
    assert torch.equal(solarise(images, 0.0), images)
    assert torch.equal(autocontrast(images, 0.0), images)
    full = autocontrast(images, 1.0)
    torch.testing.assert_close(full.amax((2, 3)), torch.full((2, 3), 255.0))
    assert (posterise(images, 1.0) % 16 == 0).all()
    assert torch.equal(sharpen(torch.full((1, 3, 4, 4), 7.0), 1.0), torch.full((1, 3, 4, 4), 7.0))


def test_random_augmentation_is_reproducible_and_per_image():
    images = (255 * torch.rand(1, 3, 8, 9, generator=draws())).expand(6, -1, -1, -1)
    one, two = random_augment(images, 2, draws(3)), random_augment(images, 2, draws(3))
    assert torch.equal(one, two)
    assert len({tuple(image.flatten().tolist()) for image in one}) > 3
    assert torch.equal(random_augment(images, 0, draws()), images)


def test_whole_images_show_all_scores():
    scores = torch.rand(2, 4, 6, 9)
    torch.testing.assert_close(crop_scores(scores.half(), None, (6, 9)), scores.half().float(), rtol=1e-5, atol=1e-6)
    larger = F.interpolate(scores, (11, 17), mode="bilinear", align_corners=True)
    torch.testing.assert_close(crop_scores(scores, None, (11, 17)), larger, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", range(6))
@pytest.mark.parametrize("crop", [(24, 32), (60, 80)])
def test_scores_follow_the_images_geometry(crop, key):
    """Scores that are linear in the place, as the pixels of the image are: a view must show the same of both."""
    height, width = 41, 57
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = np.stack([rows * 4, columns * 4, rows], 2).astype(np.uint8)
    label = np.zeros((height, width), np.uint8)
    shown = geometric(image, label, Augment(crop=crop, scale=(0.8, 1.3), flip=0.5), generator(key))
    inside = shown.label == 0
    places = torch.stack(
        [torch.linspace(0, 1, height)[:, None].expand(-1, width), torch.linspace(0, 1, width).expand(height, -1)]
    ).unsqueeze(0)
    found = crop_scores(places, torch.tensor([shown.window]), crop)[0]
    wanted = torch.from_numpy(shown.image[..., :2].astype(np.float32)) / 4 / torch.tensor([height - 1.0, width - 1.0])
    gap = (found.permute(1, 2, 0) - wanted).abs().amax(2)[torch.from_numpy(inside)]
    # Pillow's resampling is off by up to half a pixel at the borders.
    assert gap.max() < 1.5 / 41 and gap.mean() < 0.5 / 41
    if not inside.all():
        assert (found[:, ~torch.from_numpy(inside)] == 0).float().mean() > 0.95
