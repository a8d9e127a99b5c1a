"""class_moments_full in Triton: the contract at sizes that the interpreter can do, and panels of every length."""

from __future__ import annotations

import pytest
import torch
import triton_room
from contract import DTYPES, LABEL_DTYPES, LAYOUTS, lay_out, make

from fastuda.ops.class_moments import class_moments

Contract = triton_room.load_file(triton_room.ROOT / "tests/ops/test_class_moments.py", "ops_class_moments").TestContract
PAIRS = [(d, y) for d in DTYPES for y in LABEL_DTYPES]


class TestContract(Contract):
    settings = ("full",)
    compiled = ("class_moments_full",)
    same_bits_for_threads = False

    # Every layout, dtype and label type, but not every triple; few pixels at many channels.
    @pytest.mark.parametrize("i, layout", list(enumerate(LAYOUTS)))
    def test_layouts_and_dtypes(self, i, layout):
        for dtype, label_dtype in (PAIRS[i % 9], PAIRS[(i + 4) % 9]):
            self.check(*lay_out(*make((2, 21, 9, 13), 5, dtype, label_dtype), layout), 5)

    @pytest.mark.parametrize("num_classes, channels", [(2, 1), (2, 256), (13, 19), (19, 1), (3, 130), (70, 16)])
    def test_classes_and_channels(self, num_classes, channels):
        layout, dtype = ("nchw", "channels_last", "rows")[channels % 3], DTYPES[(channels + num_classes) % 3]
        self.check(*lay_out(*make((1, channels, 5, 29), num_classes, dtype), layout), num_classes)

    def test_nan_filled_allocations(self):
        features, labels = make((1, 21, 5, 40), 11)
        plain = self.each(features, labels, 11)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            assert torch.utils.deterministic.fill_uninitialized_memory
            self.same(self.check(features, labels, 11), plain, "something was left unwritten")
        finally:
            torch.use_deterministic_algorithms(False)

    def test_labels_out_of_range_are_never_an_index(self):
        features, labels = make((1, 8, 5, 6), 3)
        for value in (-1, -(2**40), 3, 256, 2**31, 2**40):
            self.check(features, labels.masked_fill(labels == 0, value), 3)
        self.check(features, labels.clamp(0, 2), 3, ignore_index=1)

    def test_same_bits_again(self):
        features, labels = make((2, 40, 9, 40), 7)
        self.same(self.each(features, labels, 7), self.each(features, labels, 7), "other bits")

    test_any_shape = None  # the lists above; hypothesis is too slow here
    test_opcheck = test_compile_fullgraph = test_bad_pixels_are_named = None  # the operator's, not the kernel's


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
