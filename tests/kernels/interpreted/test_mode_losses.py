"""mode_losses in Triton: the contract at sizes that the interpreter can do, and its accuracy."""

from __future__ import annotations

import pytest
import torch
import triton_room
from contract import DTYPES, LABEL_DTYPES, LAYOUTS, lay_out, make

from fastuda.ops import mode_losses

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_mode_losses.py", "ops_mode_losses")
PAIRS = [(d, y) for d in DTYPES for y in LABEL_DTYPES]
FORWARD, BACKWARD = (f"fastuda.kernels.mode_losses.{name}" for name in ("forward", "backward"))

test_ties_go_to_the_lowest_index_and_one_class_has_no_rival = (
    ops_tests.test_ties_go_to_the_lowest_index_and_one_class_has_no_rival
)
test_an_embedding_on_its_mode = ops_tests.test_an_embedding_on_its_mode


class TestContract(ops_tests.TestContract):
    # Every layout, dtype and label type, but not every triple; few pixels at many channels.
    @pytest.mark.parametrize("i, layout", list(enumerate(LAYOUTS)))
    def test_layouts_and_dtypes(self, i, layout):
        for dtype, label_dtype in (PAIRS[i % 9], PAIRS[(i + 4) % 9]):
            self.check(*lay_out(*make((2, 21, 9, 13), 13, dtype, label_dtype), layout), 13)

    @pytest.mark.parametrize("num_classes, channels", [(2, 1), (2, 256), (13, 19), (19, 1), (19, 256), (64, 64)])
    def test_classes_and_channels(self, num_classes, channels):
        layout, dtype = ("nchw", "channels_last", "rows")[channels % 3], DTYPES[(channels + num_classes) % 3]
        self.check(*lay_out(*make((1, channels, 5, 29), num_classes, dtype), layout), num_classes)

    def test_nan_filled_allocations(self):
        features, labels = make((1, 21, 5, 40), 40)
        plain = self.each(features, labels, 40)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            assert torch.utils.deterministic.fill_uninitialized_memory
            self.same(self.check(features, labels, 40), plain, "something was left unwritten")
        finally:
            torch.use_deterministic_algorithms(False)

    def test_same_bits_again(self):
        features, labels = make((2, 40, 9, 40), 19)
        self.same(self.each(features, labels, 19), self.each(features, labels, 19), "other bits")

    test_any_shape = None  # the lists above; hypothesis is too slow here
    test_opcheck = test_compile_fullgraph = test_bad_pixels_are_named = None  # the operator's, not the kernel's


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("square", [False, True])
def test_gradients_are_those_of_the_definition(dtype, square):
    ops_tests.test_gradients_are_those_of_the_definition(dtype, square)


def test_the_launchers_served(served):
    features, labels = make((1, 3, 4, 5), 3)
    for kind, classes in ((torch.float32, 3), (torch.float64, 3), (torch.float32, 65)):
        e = features.to(kind).requires_grad_()
        mode_losses(e, labels, ops_tests.centres(classes, 3)).triplet.backward()
    assert dict(served) == {FORWARD: 1, BACKWARD: 1}
