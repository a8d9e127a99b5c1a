"""Scores: confusion, confidence, class distribution, pseudo labels, separation of features, tables."""

from fastuda.metrics.confidence import ConfidenceHistogram
from fastuda.metrics.confusion import ConfusionMatrix, Scores
from fastuda.metrics.entropy import SelfEntropy
from fastuda.metrics.features import PixelDiscrimination, class_center_distance
from fastuda.metrics.labels import ClassDistribution, PseudoLabelQuality, PseudoLabelScores, class_shares
from fastuda.metrics.sample import PixelSample
from fastuda.metrics.table import class_table, iou_table

__all__ = [
    "ClassDistribution",
    "ConfidenceHistogram",
    "ConfusionMatrix",
    "PixelDiscrimination",
    "PixelSample",
    "PseudoLabelQuality",
    "PseudoLabelScores",
    "Scores",
    "SelfEntropy",
    "class_center_distance",
    "class_shares",
    "class_table",
    "iou_table",
]
