"""Modules and losses over the operators."""

from fastuda.nn.feature_bank import FeatureBank
from fastuda.nn.losses import cross_entropy, lovasz_softmax, resize_labels, symmetric_cross_entropy
from fastuda.nn.statistics import ClassStatistics

__all__ = [
    "ClassStatistics",
    "FeatureBank",
    "cross_entropy",
    "lovasz_softmax",
    "resize_labels",
    "symmetric_cross_entropy",
]
