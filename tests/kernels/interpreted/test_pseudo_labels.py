"""pseudo_labels and select_balanced in Triton: some of the operator's own tests and the cases of the mutants."""

from __future__ import annotations

import pytest
import torch
import triton_room
from near_labels import logits

from fastuda.ops import pseudo_labels, select_balanced

ops_tests = triton_room.load_file(triton_room.ROOT / "tests/ops/test_pseudo_labels.py", "ops_pseudo_labels")
cases = triton_room.load_file(triton_room.HERE / "kernel_cases_labels.py", "triton_room_kernel_cases_labels")

test_a_small_threshold_wins_over_a_large_probability = ops_tests.test_a_small_threshold_wins_over_a_large_probability
test_infinite_logits = ops_tests.test_infinite_logits


@pytest.mark.parametrize("options", cases.LABELS.values(), ids=cases.LABELS)
def test_labels_are_those_of_the_definition(options):
    cases.check_labels(**options)


def test_one_threshold_for_all_is_a_number_or_as_many():
    scores, many = logits(1, 4, 3, 5), torch.full((4,), 0.6)
    one = pseudo_labels(scores, size=(7, 11), threshold=0.6)
    assert torch.equal(one, pseudo_labels(scores, size=(7, 11), threshold=many.double()))
    assert torch.equal(one, select_balanced(scores, many, size=(7, 11)))


def test_the_returned_confidence_is_what_is_compared():
    """Also by a threshold that some confidences equal."""
    scores = logits(1, 4, 4, 7)
    label, confidence = pseudo_labels(scores, size=(9, 11), return_confidence=True)
    least = torch.stack([confidence[label == k].median() for k in range(4)])
    again = pseudo_labels(scores, size=(9, 11), threshold=least)
    assert torch.equal(again, label.where(confidence >= least[label.long()], 255))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (3, 2, 1, 1)])
def test_ugly_shapes(shape):
    ops_tests.test_ugly_shapes(shape)


def test_same_bits_again():
    scores = logits(2, 4, 3, 5)
    one, two = (pseudo_labels(scores, size=(9, 17), threshold=0.5, return_confidence=True) for _ in range(2))
    assert torch.equal(one.label, two.label) and torch.equal(one.confidence, two.confidence)


def test_the_launcher_served(served):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        pseudo_labels(logits(1, 5, 2, 2, dtype=dtype))
        select_balanced(logits(1, 5, 2, 2, dtype=dtype), torch.ones(5))
    assert dict(served) == {"fastuda.kernels.pseudo_labels.pseudo_labels": 4}
    module, options = triton_room.kernel_module("pseudo_labels"), (torch.ones(5), 9, 9, False, False, True, True)
    assert module.serves(torch.empty(1, 255, 2, 2), *options) and not module.serves(torch.empty(1, 256, 2, 2), *options)
    far = torch.empty_strided((1, 9, 9, 9), (0, 2**28, 9, 1), device="meta")
    assert not module.serves(far, *options)


@pytest.mark.parametrize("height, width", [(2**22, 2), (2**16, 2**15), (9, 2**21)])
def test_sizes_beyond_32_bits_are_refused(height, width):
    module, scores = triton_room.kernel_module("_upsample"), torch.empty(1, 2, 600, 600, device="meta")
    assert module.readable(scores, 2**15, 2**15) and not module.readable(scores, height, width)
