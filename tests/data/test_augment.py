"""Resize, scale, crop, flip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fastuda.data.augment import geometric, resize_image, resize_label
from fastuda.data.config import Augment
from fastuda.data.seeding import generator
from fastuda.nn.losses import resize_labels
from fastuda.ops.class_moments import downsample_labels


def pair(height=40, width=60):
    """An image whose three channels say where each pixel came from, and a label that says the same."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([y, x, y + x], 2), y


def test_resize_is_antialiased_for_images_and_nearest_for_labels():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize_image(stripes, (16, 16))
    assert small.shape == (16, 16, 3) and abs(small.astype(int)[:, 2:-2] - 127).max() <= 2
    label = np.where(np.arange(64) % 2, 3, 200).astype(np.uint8) * np.ones((64, 1), np.uint8)
    assert set(np.unique(resize_label(label, (10, 23)))) <= {3, 200}
    assert resize_image(stripes, (0, 0)) is stripes and resize_label(label, (64, 64)) is label


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (13, 40), (12, 8), (39, 24), (60, 50)])
def test_labels_are_resized_by_one_rule_in_data_losses_and_operators(size):
    """Row i of h takes row floor(i H / h): at a ratio of 3 the first of three pixels."""
    label = np.random.default_rng(0).integers(0, 255, (39, 24)).astype(np.uint8)
    rows, columns = ([i * old // new for i in range(new)] for new, old in zip(size, label.shape, strict=True))
    expected = label[rows][:, columns]
    assert np.array_equal(resize_label(label, size), expected)
    tensor = torch.from_numpy(label)[None]
    assert np.array_equal(resize_labels(tensor, size)[0].numpy(), expected)
    if size[0] <= label.shape[0] and size[1] <= label.shape[1]:
        assert np.array_equal(downsample_labels(tensor, size, 255)[0].numpy(), expected)


def test_crop_is_a_window_of_image_and_label():
    image, label = pair()
    seen = set()
    for key in range(50):
        got, truth, _ = geometric(image, label, Augment(crop=(16, 24)), generator(key))
        top, left = int(got[0, 0, 0]), int(got[0, 0, 1])
        assert np.array_equal(got, image[top : top + 16, left : left + 24])
        assert np.array_equal(truth, label[top : top + 16, left : left + 24])
        seen.add((top, left))
    assert len(seen) > 40 and max(t for t, _ in seen) > 18 and max(x for _, x in seen) > 28


def test_flip_mirrors_both():
    image, label = pair()
    got, truth, _ = geometric(image, label, Augment(flip=1.0), generator(0))
    assert np.array_equal(got, image[:, ::-1]) and np.array_equal(truth, label[:, ::-1])
    flips = [geometric(image, None, Augment(flip=0.5), generator(k))[0][0, 0, 1] == 59 for k in range(200)]
    assert 70 < sum(flips) < 130


def test_scaled_crop_is_what_resizing_everything_and_cropping_gives():
    rng = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).resize((60, 40)))
    label = rng.integers(0, 11, (40, 60)).astype(np.uint8)
    for factor in (0.73, 1.0, 1.41):
        augment = Augment(crop=(20, 30), scale=(factor, factor))
        for key in range(5):
            got, truth, _ = geometric(image, label, augment, generator(key))
            scaled = (round(40 * factor), round(60 * factor))
            whole, whole_label = resize_image(image, scaled), resize_label(label, scaled)
            draws = generator(key).random(4)
            top = int(draws[1] * (scaled[0] - 20 + 1))
            left = int(draws[2] * (scaled[1] - 30 + 1))
            expected = whole[top : top + 20, left : left + 30].astype(int)
            assert abs(got.astype(int) - expected).max() <= 1
            assert np.array_equal(truth, whole_label[top : top + 20, left : left + 30])


def test_what_lies_outside_is_mean_colour_and_ignored():
    image, label = pair(10, 12)
    for key in range(20):
        got, truth, _ = geometric(image, label, Augment(crop=(20, 16)), generator(key))
        assert got.shape == (20, 16, 3) and truth.shape == (20, 16)
        inside = truth != 255
        assert inside.sum() == 120
        assert np.array_equal(got[inside].reshape(10, 12, 3), image)
        assert (got[~inside] == image.mean((0, 1)).round().astype(np.uint8)).all()


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (33, 47)])
def test_odd_sizes_and_many_factors(size):
    image, label = pair(*size)
    augment = Augment(crop=(13, 17), scale=(0.3, 3.0), flip=0.5)
    for key in range(60):
        got, truth, _ = geometric(image, label, augment, generator(key))
        assert got.shape == (13, 17, 3) and truth.shape == (13, 17)


def test_scale_without_crop_keeps_the_whole_image():
    image, label = pair()
    got, truth, _ = geometric(image, label, Augment(scale=(0.5, 0.5)), generator(1))
    assert got.shape == (20, 30, 3) and truth.shape == (20, 30)
