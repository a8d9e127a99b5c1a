"""Matrix products for a dry run on a stand-in driver, which has no cuBLAS: results hold whatever is in memory."""

from __future__ import annotations

import torch


def empty_products() -> torch.library.Library:
    """Replace matrix products of CUDA tensors by empty results of their shapes, as long as what is returned lives."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("mm", lambda a, b: a.new_empty(a.shape[0], b.shape[1]), "CUDA")
    library.impl("bmm", lambda a, b: a.new_empty(a.shape[0], a.shape[1], b.shape[2]), "CUDA")
    return library
