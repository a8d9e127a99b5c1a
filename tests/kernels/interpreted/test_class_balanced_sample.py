"""class_balanced_sample and sample_per_class in Triton: their own tests and the cases of the mutants."""

from __future__ import annotations

import pytest
import torch
import triton_room

from fastuda.reference._random import random_bits

ops_tests = triton_room.load_file(
    triton_room.ROOT / "tests/ops/test_class_balanced_sample.py", "ops_class_balanced_sample"
)
cases = triton_room.load_file(triton_room.HERE / "kernel_cases_samplers.py", "triton_room_kernel_cases_samplers")
LAUNCHERS = ("class_balanced_sample", "sample_per_class")

test_more_than_there_are_pixels = ops_tests.test_more_than_there_are_pixels
test_images_are_drawn_apart_and_seeds_matter = ops_tests.test_images_are_drawn_apart_and_seeds_matter


@pytest.mark.parametrize("count, dtype", [(0, torch.int64), (64, torch.uint8), (512, torch.int32)])
def test_shares_of_the_image(count, dtype):
    ops_tests.test_shares_of_the_image(count, dtype)


@pytest.mark.parametrize("options", cases.SAMPLES.values(), ids=cases.SAMPLES)
def test_pixels_are_those_of_the_definition(options):
    cases.check_samples(**options)


@pytest.mark.parametrize("check", cases.SPLITS.values(), ids=cases.SPLITS)
def test_bits_that_two_pixels_share(check):
    check()


@pytest.mark.parametrize(
    "seed, image, earlier_first",
    [(cases.EARLIER_FIRST, 0, True), (cases.LATER_FIRST, 0, False), (cases.LATER_FIRST_IN_THE_SECOND_IMAGE, 1, False)],
)
def test_the_cases_of_two_alike_are_some(seed, image, earlier_first):
    bits = random_bits(torch.tensor(seed), 0, 600 * image + torch.arange(600))
    order = bits.argsort()
    alike = (bits[order[1:]] >> 1 == bits[order[:-1]] >> 1).nonzero().flatten()
    assert len(alike) == 1 and bool(order[alike] < order[alike + 1]) == earlier_first


def test_the_launchers_served(served):
    """Up to 256 classes: beyond, the definition does."""
    labels, seed = torch.zeros(1, 40, dtype=torch.int32), torch.tensor([1, 2])
    for name in LAUNCHERS:
        for classes in (3, 257):
            getattr(torch.ops.fastuda, name)(labels, seed, classes, 4, 255)
    assert dict(served) == {f"fastuda.kernels.class_balanced_sample.{name}": 1 for name in LAUNCHERS}
    module = triton_room.kernel_module("class_balanced_sample")
    for serves in (module.serves, module.serves_per_class):
        assert serves(labels, seed, 256, 4, 255) and not serves(labels, seed, 257, 4, 255)
