"""The optimisers of a stage together with the loss scale and the learning-rate schedule."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastuda.methods.protocol import Losses, Stage
from fastuda.train.meter import NonFiniteLoss
from fastuda.train.precision import Precision

MAX_SKIPPED = 100  # steps in a row; no loss scale needs as many to come down


class Optimisers:
    """Backward passes, updates and learning rates of a stage; ``saved`` is an earlier ``state()`` to continue from."""

    def __init__(self, stage: Stage, precision: Precision, saved: dict[str, Any]) -> None:
        self.factor = stage.learning_rate
        self.optimisers = stage.optimisers()
        self.scale = precision.loss_scale()
        self.rates = {name: [group["lr"] for group in o.param_groups] for name, o in self.optimisers.items()}
        if saved:
            self.scale.load_state_dict(saved["scaler"])
            for name, optimiser in self.optimisers.items():
                optimiser.load_state_dict(_as_built(saved[name], optimiser))
                _lay_out_state(optimiser)

    def state(self) -> dict[str, Any]:
        return {"scaler": self.scale.state_dict()} | {name: o.state_dict() for name, o in self.optimisers.items()}

    def set_learning_rate(self, iteration: int) -> None:
        for name, optimiser in self.optimisers.items():
            for group, rate in zip(optimiser.param_groups, self.rates[name], strict=True):
                group["lr"] = rate * self.factor(iteration)

    def learning_rate(self) -> float:
        """The current rate of the first group of the first optimiser."""
        return next(iter(self.optimisers.values())).param_groups[0]["lr"]

    def backward(self, losses: Losses, factor: float) -> None:
        """Add the gradients of ``factor`` times the losses; losses that depend on no parameter add none."""
        for terms in losses.values():
            total = sum(terms.values())
            self.scale.watch(total)
            if total.requires_grad:
                self.scale.scale(total * factor).backward()

    def step(self) -> Tensor:
        """Update the parameters and clear the gradients.

        Returns a scalar on the device: 1.0 if the update was skipped because of a loss or a gradient that is not
        finite, else 0.0.
        """
        parameters = [p for o in self.optimisers.values() for g in o.param_groups for p in g["params"]]
        _lay_out_gradients(parameters)
        skip = self.scale.unscale([p.grad for p in parameters if p.grad is not None])
        for optimiser in self.optimisers.values():
            if all(group.get("fused") for group in optimiser.param_groups):
                _begin_momentum(optimiser)
                optimiser.found_inf = skip
                optimiser.step()
            # Only a fused optimiser can decide on the device: for another the host waits for the number.
            elif not skip.item():
                optimiser.step()
        self.scale.update()
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        return skip

    def check(self, stage: str, iteration: int, checkpoint: Path) -> None:
        """Raise NonFiniteLoss if the last ``MAX_SKIPPED`` updates were skipped; waits for a number from the device."""
        if (skipped := int(self.scale.in_a_row)) >= MAX_SKIPPED:
            raise NonFiniteLoss(
                f"the gradients of the last {skipped} steps are not finite in stage {stage} at iteration {iteration}; "
                f"the last good state is in {checkpoint}"
            )


# On the CPU, fused optimisers of torch 2.13 go through parameter, gradient and state in the order of memory: if their
# layouts differ, the weights become silently wrong. Autograd gives a gradient its parameter's layout; custom operators
# and checkpoints may not.


def _lay_out_gradients(parameters: list[Tensor]) -> None:
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter, dtype=parameter.grad.dtype).copy_(parameter.grad)


def _lay_out_state(optimiser: Optimizer) -> None:
    for parameter, state in optimiser.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _begin_momentum(optimiser: Optimizer) -> None:
    """Create missing momentum buffers as zeros, which gives the first step that torch defines.

    A fused SGD whose first update is skipped would otherwise continue with an uninitialised buffer.
    """
    for group in optimiser.param_groups:
        for parameter in group["params"] if group.get("momentum") else ():
            if parameter.grad is not None and optimiser.state[parameter].get("momentum_buffer") is None:
                optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _as_built(saved: dict[str, Any], optimiser: Optimizer) -> dict[str, Any]:
    """The saved state with ``optimiser``'s own choice of fused and foreach, which differs between machines."""
    groups = [
        old | {key: now[key] for key in ("fused", "foreach") if key in now}
        for old, now in zip(saved["param_groups"], optimiser.param_groups, strict=True)
    ]
    return saved | {"param_groups": groups}


def draw_seed(*position: int) -> int:
    """A seed for torch's generator: a hash of (seed, stage, iteration)."""
    return int.from_bytes(hashlib.blake2b(repr(position).encode(), digest_size=8).digest(), "little") >> 1
