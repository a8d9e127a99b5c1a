"""mode_losses in Triton: the contract at sizes that the interpreter can do, and its accuracy."""

from __future__ import annotations

import pytest
import torch
import triton_room
from contract import make
from small_contract import at_small_sizes

from fastuda.ops import mode_losses

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_mode_losses.py", "ops_mode_losses")
NAMES = ("mode_losses.forward", "mode_losses.backward", "pixel_mean.pixel_mean")
FORWARD, BACKWARD, MEAN = (f"fastuda.kernels.{name}" for name in NAMES)

test_ties_go_to_the_lowest_index_and_one_class_has_no_rival = (
    ops_tests.test_ties_go_to_the_lowest_index_and_one_class_has_no_rival
)
test_an_embedding_on_its_mode = ops_tests.test_an_embedding_on_its_mode


class TestContract(at_small_sizes(ops_tests.TestContract, ((19, 256), (64, 64)))):
    pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("square", [False, True])
def test_gradients_are_those_of_the_definition(dtype, square):
    ops_tests.test_gradients_are_those_of_the_definition(dtype, square)


def test_the_launchers_served(served):
    features, labels = make((1, 3, 4, 5), 3)
    for kind, classes in ((torch.float32, 3), (torch.float64, 3), (torch.float32, 65)):
        e = features.to(kind).requires_grad_()
        mode_losses(e, labels, ops_tests.centres(classes, 3)).triplet.backward()
    assert dict(served) == {FORWARD: 1, BACKWARD: 1, MEAN: 2}
