"""The operators' autograd functions are differentiable once; a second derivative raises an error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Refuse(torch.autograd.Function):
    """The identity, whose gradient raises an error."""

    @staticmethod
    def forward(ctx, slope: Tensor, name: str) -> Tensor:
        ctx.name = name
        return slope.view_as(slope)

    @staticmethod
    def backward(ctx, _):
        raise RuntimeError(
            f"{ctx.name} is differentiable once: a gradient of its gradient (create_graph=True) is not computed. "
            "Call the definition in fastuda.reference, which is plain PyTorch, where second derivatives are needed"
        )


def differentiable_once(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For ``backward`` of an operator's autograd function: differentiating its results is an error that names it.

    torch's ``once_differentiable`` returns a gradient without a graph where the incoming gradient needs none, so that a
    penalty on the gradient would silently have no effect.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(backward)
        def wrapped(ctx, *grads):
            second = torch.is_grad_enabled() and not torch.compiler.is_compiling()  # torch.compile raises anyway
            with torch.no_grad():
                slopes = backward(ctx, *grads)
            if not second:
                return slopes
            if isinstance(slopes, Tensor):
                return _refusing(slopes, name)
            return tuple(_refusing(slope, name) if isinstance(slope, Tensor) else slope for slope in slopes)

        return wrapped

    return decorate


def _refusing(slope: Tensor, name: str) -> Tensor:
    return _Refuse.apply(slope.detach().requires_grad_(), name)
