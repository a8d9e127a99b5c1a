"""The public operators: contracts, checks and autograd over the dispatcher's kernels."""

from fastuda import _ext as _ext  # loads the compiled kernels
from fastuda.ops._backend import backend_report, build_facts
from fastuda.ops._dispatch import backends, use_backend
from fastuda.ops.class_balanced_sample import class_balanced_sample, sample_per_class
from fastuda.ops.class_moments import Moments, class_moments, downsample_labels
from fastuda.ops.contrastive_bound import contrastive_bound
from fastuda.ops.low_rank import LowRank, low_rank
from fastuda.ops.mode_losses import ModeLosses, mode_losses
from fastuda.ops.select_triplets import Triplets, select_triplets
from fastuda.ops.sinkhorn import sinkhorn
from fastuda.ops.triplet_consistency_loss import triplet_consistency_loss
from fastuda.ops.upsample_cross_entropy import upsample_cross_entropy

__all__ = [
    "LowRank",
    "ModeLosses",
    "Moments",
    "Triplets",
    "backend_report",
    "backends",
    "build_facts",
    "class_balanced_sample",
    "class_moments",
    "contrastive_bound",
    "downsample_labels",
    "low_rank",
    "mode_losses",
    "sample_per_class",
    "select_triplets",
    "sinkhorn",
    "triplet_consistency_loss",
    "upsample_cross_entropy",
    "use_backend",
]
