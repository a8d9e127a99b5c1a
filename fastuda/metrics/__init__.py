"""Scores: confusion, confidence, separation of features, tables."""

from fastuda.metrics.confidence import ConfidenceHistogram
from fastuda.metrics.confusion import ConfusionMatrix, Scores
from fastuda.metrics.entropy import SelfEntropy
from fastuda.metrics.features import PixelDiscrimination, class_center_distance
from fastuda.metrics.table import iou_table, iou_text

__all__ = [
    "ConfidenceHistogram",
    "ConfusionMatrix",
    "PixelDiscrimination",
    "Scores",
    "SelfEntropy",
    "class_center_distance",
    "iou_table",
    "iou_text",
]
