"""One rule for agreement: an operator may err from float64 as much as its reference does, plus a stated epsilon."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_as_accurate(actual: Tensor, reference: Tensor, truth: Tensor, eps: float, what: str = "result") -> None:
    """max |actual - truth| <= max |reference - truth| + eps * max |truth|, where truth is the float64 result.

    actual, reference: results of the operator and of the reference on the same input in the same dtype.
    eps: dimensionless, relative to the largest magnitude of ``truth``. NaN and infinity must agree in place.
    """
    assert actual.shape == truth.shape, f"{what}: shape {tuple(actual.shape)} instead of {tuple(truth.shape)}"
    assert actual.dtype == reference.dtype, f"{what}: dtype {actual.dtype} instead of {reference.dtype}"
    if truth.numel() == 0:
        return
    finite = truth.isfinite()
    assert torch.equal(actual.isfinite(), finite), f"{what}: finite where the truth is not, or the reverse"
    error, allowed = _error(actual, truth, finite), _error(reference, truth, finite)
    scale = truth[finite].abs().max().item() if finite.any() else 0.0
    assert error <= allowed + eps * scale, (
        f"{what}: error {error:.3e} exceeds the reference's {allowed:.3e} + {eps:.1e} x {scale:.3e}"
    )


def _error(value: Tensor, truth: Tensor, finite: Tensor) -> float:
    difference = (value.double() - truth.double()).abs()[finite & value.isfinite()]
    return difference.max().item() if difference.numel() else 0.0
