"""The public operators: contracts, checks and autograd over the dispatcher's kernels."""

from fastuda import _ext as _ext  # loads the compiled kernels
from fastuda.ops._backend import backend_report, build_facts
from fastuda.ops._dispatch import backends, use_backend
from fastuda.ops.class_moments import Moments, class_moments, downsample_labels
from fastuda.ops.contrastive_bound import contrastive_bound
from fastuda.ops.low_rank import LowRank, low_rank

__all__ = [
    "LowRank",
    "Moments",
    "backend_report",
    "backends",
    "build_facts",
    "class_moments",
    "contrastive_bound",
    "downsample_labels",
    "low_rank",
    "use_backend",
]
