"""Modules and losses over the operators."""

from fastuda.nn.feature_bank import FeatureBank
from fastuda.nn.losses import confident_labels, cross_entropy, lovasz_softmax, resize_labels, upsample_logits
from fastuda.nn.statistics import ClassStatistics

__all__ = [
    "ClassStatistics",
    "FeatureBank",
    "confident_labels",
    "cross_entropy",
    "lovasz_softmax",
    "resize_labels",
    "upsample_logits",
]
