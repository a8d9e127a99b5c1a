"""Segmentation networks that return features and logits together."""

from fastuda.models.build import build_model
from fastuda.models.config import ModelConfig
from fastuda.models.norm import (
    BatchNorm,
    load_statistics_state,
    recompute_statistics,
    statistics_state,
    untracked,
    use_domain,
)
from fastuda.models.output import Output
from fastuda.models.weights import Report, load_weights, save_weights

__all__ = [
    "BatchNorm",
    "ModelConfig",
    "Output",
    "Report",
    "build_model",
    "load_statistics_state",
    "load_weights",
    "recompute_statistics",
    "save_weights",
    "statistics_state",
    "untracked",
    "use_domain",
]
