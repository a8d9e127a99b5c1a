"""Whether random draws are uniform, by a statistic that does not fail by accident."""

from __future__ import annotations

from torch import Tensor


def chi_square(counts: Tensor) -> float:
    """Of counts that should be equal, in standard deviations from what chance gives: above 5 is no accident."""
    expected = counts.double().mean()
    statistic = ((counts.double() - expected) ** 2 / expected).sum().item()
    freedom = len(counts) - 1
    return (statistic - freedom) / (2 * freedom) ** 0.5
