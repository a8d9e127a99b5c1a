"""What every segmentation network returns."""

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """features: (N, A, h, w), the classifier's input; logits: (N, K, h, w) at the same resolution."""

    features: Tensor
    logits: Tensor
