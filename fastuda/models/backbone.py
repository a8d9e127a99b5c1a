"""Running a backbone: a chain of modules, cut into segments whose activations may be recomputed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastuda.models.norm import BatchNorm, replay


class Backbone(nn.Module):
    """(N, 3, H, W) → (N, ``channels``, h, w), the last map of ``segments()``; of the DeepLabs' backbones at stride 8.

    ``pyramid`` gives the maps behind the segments ``taps`` instead, for decoders of several strides.

    With ``checkpointing``, training keeps the input of each segment only and recomputes the rest in backward; results,
    gradients, dropout masks and running statistics are those of the plain pass.
    """

    # Child modules that no ImageNet checkpoint holds.
    fresh: tuple[str, ...] = ()
    # Numbers of the segments whose maps ``pyramid`` gives, the finest first, and their channels; none = no pyramid.
    taps: tuple[int, ...] = ()
    pyramid_channels: tuple[int, ...] = ()
    channels: int
    checkpointing: bool = False

    def segments(self) -> list[list[nn.Module]]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        run = self._runner()
        for segment in self.segments():
            x = run(segment, x)
        return x

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Maps (N, A_i, h_i, w_i) of images (N, 3, H, W), the finest first; A_i = ``pyramid_channels``."""
        run, maps = self._runner(), []
        for number, segment in enumerate(self.segments()):
            x = run(segment, x)
            if number in self.taps:
                maps.append(x)
        return maps

    def _runner(self) -> Callable[[Sequence[nn.Module], Tensor], Tensor]:
        return _checkpoint if self.checkpointing and torch.is_grad_enabled() else _run


def _run(segment: Sequence[nn.Module], x: Tensor) -> Tensor:
    for module in segment:
        x = module(x)
    return x


def _checkpoint(segment: Sequence[nn.Module], x: Tensor) -> Tensor:
    layers = [layer for module in segment for layer in module.modules() if isinstance(layer, BatchNorm)]
    # Backward may run when the model has gone on to the other domain.
    domains = [layer.domain for layer in layers]

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), replay(layers, domains)

    return checkpoint(_run, segment, x, use_reentrant=False, context_fn=contexts)
