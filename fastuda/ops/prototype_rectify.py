"""Soft pseudo labels rectified by prototypes: the raw operator and the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.ops import _checks, _dispatch, _library
from fastuda.ops.pseudo_labels import check_scores
from fastuda.reference import prototype_rectify as _reference

_prototype_rectify = _library.define(
    "prototype_rectify(Tensor scores, Tensor soft, int height, int width, float temperature, bool align_corners) "
    "-> Tensor",
    _reference.prototype_rectify,
    lambda scores, soft, height, width, *_: scores.new_empty((scores.shape[0], height, width), dtype=torch.uint8),
)
_dispatch.serve("prototype_rectify")


def prototype_rectify(
    scores: Tensor,
    soft: Tensor,
    *,
    size: tuple[int, int] | None = None,
    temperature: float = 1.0,
    align_corners: bool = True,
) -> Tensor:
    """Stored soft labels times the probabilities of a self-labelling head, as labels (CPSL Eq. 1).

        label = argmax_c softmax(up(scores) / temperature)_c up(soft)_c

    scores: (N, K, h, w), logits or cosines, K <= 255, float32, float16, bfloat16 or float64, any strides.
    soft: (N, K, h', w') probabilities of any of these dtypes, at a resolution of their own; those below 0 count as 0.
    size: (height, width) of the labels, by default the scores' own; both are bilinearly upsampled to it.
    temperature: positive.
    Returns uint8 (N, height, width); the lowest class of equals.  Compared as up(scores) / temperature + log up(soft),
    in float32 (float64 for float64 scores) also under autocast: a class without probability never wins over one with,
    however small.  255 where no class has any and next to NaN.
    No gradient flows.  Deterministic; no host synchronisation.  Memory beyond inputs and outputs as of
    ``pseudo_labels``.
    Raises ValueError for a wrong dtype, shape, device or option.
    """
    size = check_scores(scores, size)
    _checks.scores(soft, "soft")
    if soft.shape[:2] != scores.shape[:2]:
        raise ValueError(f"soft must be {tuple(scores.shape[:2])} + (h, w), got shape {tuple(soft.shape)}")
    if soft.device != scores.device:
        raise ValueError(f"soft is on {soft.device} but scores are on {scores.device}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return _prototype_rectify(scores.detach(), soft.detach(), *size, float(temperature), align_corners)
