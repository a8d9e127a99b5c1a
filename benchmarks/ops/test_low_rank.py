"""low_rank of 19 full covariances, beside the exact eigendecomposition that it stands in for.

pytest benchmarks/ops/test_low_rank.py --benchmark-only
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastuda.ops.low_rank import low_rank

CLASSES = 19
CASES = {"A=256 r=16": (256, 16), "A=1024 r=32": (1024, 32)}


def setup(channels: int) -> Tensor:
    """Covariances of 2 A pixels whose channels' scales decay as those of features do."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(CLASSES, 2 * channels, channels, generator=generator)
    x = x @ torch.randn(channels, channels, generator=generator) * torch.arange(1, channels + 1) ** -0.5
    return x.mT @ x / (2 * channels)


def eigh(covariance: Tensor, rank: int) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors[:, :, -rank:] * values[:, None, -rank:].clamp(min=0).sqrt()


PROVIDERS = {"reference": lambda covariance, rank: low_rank(covariance, rank).factors, "eigh": eigh}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("case", CASES)
def test_low_rank(benchmark, case, provider):
    channels, rank = CASES[case]
    covariance = setup(channels)
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    benchmark.extra_info["retained"] = (PROVIDERS[provider](covariance, rank).square().sum((1, 2)) / trace).min().item()
    benchmark.pedantic(PROVIDERS[provider], args=(covariance, rank), rounds=3, warmup_rounds=1)
