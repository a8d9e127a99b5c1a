"""The contract of tests/contract.py at sizes that Triton's interpreter can do: no hypothesis, no 2048 channels."""

from __future__ import annotations

import pytest
import torch
from contract import DTYPES, LABEL_DTYPES, LAYOUTS, lay_out, make

PAIRS = [(d, y) for d in DTYPES for y in LABEL_DTYPES]


def at_small_sizes(contract: type, largest: tuple, classes=13, height=5, poisoned=((1, 21, 5, 40), 40)) -> type:
    """``contract``, a TestContract of tests/ops, as a base class.

    largest: the last pairs (classes, channels) of test_classes_and_channels; height: of its images.
    classes: of test_layouts_and_dtypes.
    poisoned: (shape, classes) of test_nan_filled_allocations.
    """

    class Small(contract):
        poisoned_settings = 1  # the first ones, of test_nan_filled_allocations

        # Every layout, dtype and label type, but not every triple; few pixels at many channels.
        @pytest.mark.parametrize("i, layout", list(enumerate(LAYOUTS)))
        def test_layouts_and_dtypes(self, i, layout):
            for dtype, label_dtype in (PAIRS[i % 9], PAIRS[(i + 4) % 9]):
                self.check(*lay_out(*make((2, 21, 9, 13), classes, dtype, label_dtype), layout), classes)

        @pytest.mark.parametrize("num_classes, channels", [(2, 1), (2, 256), (13, 19), (19, 1), *largest])
        def test_classes_and_channels(self, num_classes, channels):
            layout, dtype = ("nchw", "channels_last", "rows")[channels % 3], DTYPES[(channels + num_classes) % 3]
            self.check(*lay_out(*make((1, channels, height, 29), num_classes, dtype), layout), num_classes)

        def test_nan_filled_allocations(self):
            shape, num_classes = poisoned
            features, labels = make(shape, num_classes)
            for setting in self.settings[: self.poisoned_settings]:
                plain = self.each(features, labels, num_classes, setting)
                torch.use_deterministic_algorithms(True, warn_only=True)
                try:
                    assert torch.utils.deterministic.fill_uninitialized_memory
                    ours = self.check(features, labels, num_classes, setting)
                    self.same(ours, plain, "something was left unwritten")
                finally:
                    torch.use_deterministic_algorithms(False)

        def test_same_bits_again(self):
            pixels = make((2, 21, 5, 20), 7)  # the interpreter has one order: only what was left unwritten may differ
            self.same(self.each(*pixels, 7), self.each(*pixels, 7), "other bits")

        @pytest.mark.parametrize("dtype", DTYPES)
        def test_settings(self, dtype):
            layout = "nchw" if dtype == torch.float16 else "channels_last"  # the dtypes meet every layout above
            for setting in self.settings:
                self.check(*lay_out(*make((2, 19, 13, 11), 5, dtype), layout), 5, setting)

        test_any_shape = None  # the lists above
        test_opcheck = test_compile_fullgraph = test_bad_pixels_are_named = None  # the operator's, not the kernel's

    return Small


class FewLabels:
    """To stand before a contract whose forms are too slow for all labels of the contract."""

    def test_labels_out_of_range_are_never_an_index(self):
        features, labels = make((1, 8, 5, 6), 3)
        for value in (-1, -(2**40), 3, 256, 2**31, 2**40):
            self.check(features, labels.masked_fill(labels == 0, value), 3)
        self.check(features, labels.clamp(0, 2), 3, ignore_index=1)
