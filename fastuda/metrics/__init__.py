"""Scores: confusion, confidence, tables."""

from fastuda.metrics.confidence import ConfidenceHistogram
from fastuda.metrics.confusion import ConfusionMatrix, Scores
from fastuda.metrics.table import iou_table, iou_text

__all__ = ["ConfidenceHistogram", "ConfusionMatrix", "Scores", "iou_table", "iou_text"]
