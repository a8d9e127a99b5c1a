"""Colour and blur against their definitions."""

from __future__ import annotations

import colorsys

import gpu
import numpy as np
import pytest
import torch

from fastuda.data.config import Augment
from fastuda.data.photometric import IMAGENET_MEAN, IMAGENET_STD, Photometric, standardise
from fastuda.data.seeding import generator

LUMA = torch.tensor([0.299, 0.587, 0.114])


def images(n=6, height=24, width=30, low=60, high=160):
    return torch.randint(low, high, (n, 3, height, width), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def grey_levels(out):
    """Standardised -> 0..255."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (out * std + mean) * 255


def luma(x):
    return (x.double() * LUMA.double().view(1, 3, 1, 1)).sum(1)


def test_standardise_is_the_definition():
    x = images()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(standardise(x), (x.float() / 255 - mean) / std, atol=1e-5, rtol=1e-5)
    assert torch.equal(Photometric(Augment())(x, key=(0,)), standardise(x))


def test_brightness_is_one_factor_per_sample():
    x = images()
    ratio = grey_levels(Photometric(Augment(brightness=0.5))(x, key=(1,))) / x
    factors = ratio.flatten(1)
    assert (factors.amax(1) - factors.amin(1)).max() < 1e-4
    assert len({round(float(f), 3) for f in factors[:, 0]}) == len(x)
    assert factors.min() >= 0.5 and factors.max() <= 1.5


def test_contrast_blends_with_the_mean_luma():
    x = images()
    y = grey_levels(Photometric(Augment(contrast=0.4))(x, key=(2,)))
    mean = luma(x).mean((1, 2)).view(-1, 1, 1, 1)
    factors = ((y - mean) / (x - mean)).flatten(1)
    keep = ((x - mean).abs() > 5).flatten(1)
    for row, chosen in zip(factors, keep, strict=True):
        assert row[chosen].max() - row[chosen].min() < 1e-3
        assert 0.6 <= row[chosen].mean() <= 1.4


def test_saturation_and_greyscale_and_hue_keep_the_luma():
    x = images(low=90, high=140)
    for augment in (Augment(saturation=0.5), Augment(greyscale=1.0), Augment(hue=0.2)):
        y = grey_levels(Photometric(augment)(x, key=(3,)))
        torch.testing.assert_close(luma(y), luma(x), atol=0.05, rtol=0)
    grey = grey_levels(Photometric(Augment(greyscale=1.0))(x, key=(3,)))
    assert (grey[:, 0] - grey[:, 2]).abs().max() < 0.01
    y = grey_levels(Photometric(Augment(saturation=0.5))(x, key=(3,)))
    chroma_x, chroma_y = x - luma(x)[:, None], y - luma(y)[:, None]
    factor = (chroma_y * chroma_x).flatten(1).sum(1) / (chroma_x**2).flatten(1).sum(1)
    torch.testing.assert_close(chroma_y, factor.view(-1, 1, 1, 1) * chroma_x, atol=0.05, rtol=0)


def test_hue_turns_the_colour_wheel_about_as_far_as_hsv_does():
    x = torch.tensor([180, 100, 100], dtype=torch.uint8).view(1, 3, 1, 1).expand(64, 3, 2, 2)
    y = grey_levels(Photometric(Augment(hue=0.1))(x, key=(4,)))[:, :, 0, 0] / 255
    turns = np.array([(colorsys.rgb_to_hsv(*c)[0] + 0.5) % 1 - 0.5 for c in y.clamp(0, 1).tolist()])
    assert 0.07 < turns.max() < 0.15 and -0.15 < turns.min() < -0.07


def test_values_are_clipped():
    y = grey_levels(Photometric(Augment(brightness=1.0, contrast=1.0))(images(low=0, high=256), key=(5,)))
    assert y.min() > -0.01 and y.max() < 255.01


def test_greyscale_and_blur_happen_as_often_as_asked():
    x = images(400, 8, 8)
    y = grey_levels(Photometric(Augment(greyscale=0.2))(x, key=(6,)))
    share = ((y[:, 0] - y[:, 2]).abs().amax((1, 2)) < 0.01).float().mean()
    assert 0.12 < share < 0.28
    x = images(200, 512, 12)
    y = Photometric(Augment(blur=0.5))(x, key=(6,))
    share = ((y - standardise(x)).abs().flatten(1).amax(1) > 0.01).float().mean()
    assert 0.35 < share < 0.6  # the weakest blurs change nothing


@pytest.mark.parametrize("height", [128, 512])
def test_blur_is_a_gaussian_in_proportion_to_the_height(height):
    x = torch.zeros(1, 3, height, 65, dtype=torch.uint8)
    x[:, :, height // 2, 32] = 255
    spot = grey_levels(Photometric(Augment(blur=1.0))(x, key=(9,)))[0, 0]
    sigma = (0.1 + 1.9 * generator(9).random((1, 7))[0, 6]) * height / 512
    offsets = torch.arange(-32.0, 33.0)
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    taps = 255 * torch.outer(taps, taps) / taps.sum() ** 2
    assert sigma > 0.2 * height / 512
    torch.testing.assert_close(spot[height // 2 - 32 : height // 2 + 33], taps.float(), atol=1.0, rtol=0)


def test_blur_does_not_darken_the_border():
    x = torch.full((4, 3, 300, 20), 200, dtype=torch.uint8)
    torch.testing.assert_close(Photometric(Augment(blur=1.0))(x, key=(1,)), standardise(x), atol=1e-4, rtol=0)


def test_a_key_decides_everything_and_neighbours_nothing():
    x, augment = images(), Augment(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2, greyscale=0.2, blur=0.5)
    photometric = Photometric(augment)
    a, b = photometric(x, key=(1, 2, 3)), photometric(x, key=(1, 2, 3))
    assert torch.equal(a, b) and not torch.equal(a, photometric(x, key=(1, 2, 4)))
    state = torch.get_rng_state()
    photometric(x, key=(7,))
    assert torch.equal(state, torch.get_rng_state())
    other = x.clone()
    other[1:] = 0
    torch.testing.assert_close(photometric(other, key=(1, 2, 3))[0], a[0])


def test_autocast_does_not_coarsen_colours():
    x, photometric = images(), Photometric(Augment(brightness=0.5, hue=0.1, blur=1.0))
    with torch.autocast("cpu", torch.bfloat16):
        under = photometric(x, key=(1,))
    assert under.dtype == torch.float32 and torch.equal(under, photometric(x, key=(1,)))


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 2, 5), (0, 3, 8, 8)])
def test_tiny_images(shape):
    x = torch.full(shape, 100, dtype=torch.uint8)
    out = Photometric(Augment(brightness=0.5, contrast=0.5, hue=0.1, blur=1.0))(x, key=(1,))
    assert out.shape == shape and torch.isfinite(out).all()


@pytest.mark.gpu
@gpu.runs_kernels
def test_the_device_gives_what_the_cpu_gives_without_waiting():
    x, photometric = images(), Photometric(Augment(brightness=0.5, contrast=0.5, hue=0.2, greyscale=0.2, blur=0.7))
    on_device = x.cuda()
    photometric(on_device, key=(0,))
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = photometric(on_device, key=(1,))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(out.cpu(), photometric(x, key=(1,)), atol=5e-3, rtol=0)
