"""class_moments_full in Triton: the contract at sizes that the interpreter can do, and panels of every length."""

from __future__ import annotations

import pytest
import torch
import triton_room
from contract import DTYPES, make
from small_contract import FewLabels, at_small_sizes

from fastuda.ops.class_moments import class_moments

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_class_moments.py", "ops_class_moments")
Small = at_small_sizes(ops_tests.TestContract, ((3, 130), (70, 16)), 5, poisoned=((1, 21, 5, 40), 11))


class TestContract(FewLabels, Small):
    settings = ("full",)
    compiled = ("class_moments_full",)
    same_bits_for_threads = False


def test_the_launcher_served(served):
    class_moments(*make((1, 3, 4, 5), 3), 3, covariance="full")
    class_moments(make((1, 3, 4, 5), 3)[0].double(), make((1, 3, 4, 5), 3)[1], 3, covariance="full")
    assert dict(served) == {"fastuda.kernels.class_moments_full.class_moments_full": 1}


@pytest.mark.parametrize("pixels", [1, 31, 33, 159, 160, 161, 801])
def test_every_length_of_a_panel(pixels, monkeypatch):
    monkeypatch.setattr(triton_room.kernel_module("class_moments_full"), "SHORTEST_PANEL", 32)
    features, labels = make((1, 16, 1, pixels), 2)  # panels of 160 rows
    TestContract().check(features, torch.zeros_like(labels), 2)
    TestContract().check(features, labels, 2)


@pytest.mark.parametrize("channels", [1, 5, 16, 64, 130, 256, 512, 2048])
def test_partial_tiles_are_a_tenth_of_the_features(channels):
    """Panels that are not the first of their class, at most: P // panel_rows."""
    module, pixels = triton_room.kernel_module("class_moments_full"), 1 << 20
    size = module._tile(torch.device("cpu"), "bf16", channels, channels_last=True)["BLOCK_A"]
    across = -(-channels // size)
    numbers = across * (across + 1) // 2 * size * size
    assert pixels // module._panel_rows(channels, numbers) * numbers <= pixels * channels / 10


@pytest.mark.parametrize("card", [75, 80, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mean_far_from_zero(dtype, card, monkeypatch):
    monkeypatch.setattr(triton_room.kernel_module("_common"), "capability", lambda device: card)
    features, labels = make((1, 8, 11, 30), 3)
    for offset in (10.0, -1000.0):
        TestContract().check((features + offset).to(dtype), labels, 3)
