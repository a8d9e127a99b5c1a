"""Modules and losses over the operators."""

from fastuda.nn.losses import confident_labels, cross_entropy, lovasz_softmax, resize_labels, upsample_logits
from fastuda.nn.statistics import ClassStatistics

__all__ = [
    "ClassStatistics",
    "confident_labels",
    "cross_entropy",
    "lovasz_softmax",
    "resize_labels",
    "upsample_logits",
]
