"""The public operators: contracts, checks and autograd over the dispatcher's kernels."""

from fastuda import _ext as _ext  # loads the compiled kernels
from fastuda.ops._backend import backend_report, build_facts
from fastuda.ops._dispatch import backends, use_backend
from fastuda.ops.aggregate_patches import Aggregated, aggregate_patches
from fastuda.ops.class_balanced_sample import class_balanced_sample, sample_per_class
from fastuda.ops.class_moments import Moments, class_moments, downsample_labels
from fastuda.ops.class_thresholds import class_thresholds
from fastuda.ops.confidence_histogram import confidence_histogram
from fastuda.ops.confusion_matrix import confusion_matrix
from fastuda.ops.contrastive_bound import contrastive_bound
from fastuda.ops.lovasz_softmax import lovasz_softmax
from fastuda.ops.low_rank import LowRank, low_rank
from fastuda.ops.mode_losses import ModeLosses, mode_losses
from fastuda.ops.prototype_rectify import prototype_rectify
from fastuda.ops.pseudo_labels import PseudoLabels, pseudo_labels, select_balanced
from fastuda.ops.select_triplets import Triplets, select_triplets
from fastuda.ops.sinkhorn import sinkhorn
from fastuda.ops.softmax_kl import distillation_kl, symmetric_kl
from fastuda.ops.triplet_consistency_loss import triplet_consistency_loss
from fastuda.ops.upsample_cross_entropy import upsample_cross_entropy
from fastuda.ranks import global_batch

__all__ = [
    "Aggregated",
    "LowRank",
    "ModeLosses",
    "Moments",
    "PseudoLabels",
    "Triplets",
    "aggregate_patches",
    "backend_report",
    "backends",
    "build_facts",
    "class_balanced_sample",
    "class_moments",
    "class_thresholds",
    "confidence_histogram",
    "confusion_matrix",
    "contrastive_bound",
    "distillation_kl",
    "downsample_labels",
    "global_batch",
    "lovasz_softmax",
    "low_rank",
    "mode_losses",
    "prototype_rectify",
    "pseudo_labels",
    "sample_per_class",
    "select_balanced",
    "select_triplets",
    "sinkhorn",
    "symmetric_kl",
    "triplet_consistency_loss",
    "upsample_cross_entropy",
    "use_backend",
]
