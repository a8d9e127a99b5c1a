"""The optimisers of a stage together with the loss scale and the learning-rate schedule."""

from __future__ import annotations

import hashlib
from typing import Any

from fastuda.methods.protocol import Losses, Stage
from fastuda.train.precision import Precision


class Optimisers:
    """Differentiates losses, steps, schedules; ``saved`` is an earlier ``state()`` to continue from."""

    def __init__(self, stage: Stage, precision: Precision, saved: dict[str, Any]) -> None:
        self.factor = stage.learning_rate
        self.optimisers = stage.optimisers()
        self.scaler = precision.scaler()
        self.rates = {name: [group["lr"] for group in o.param_groups] for name, o in self.optimisers.items()}
        if saved:
            self.scaler.load_state_dict(saved["scaler"])
            for name, optimiser in self.optimisers.items():
                optimiser.load_state_dict(saved[name])

    def state(self) -> dict[str, Any]:
        return {"scaler": self.scaler.state_dict()} | {name: o.state_dict() for name, o in self.optimisers.items()}

    def set_learning_rate(self, iteration: int) -> None:
        for name, optimiser in self.optimisers.items():
            for group, rate in zip(optimiser.param_groups, self.rates[name], strict=True):
                group["lr"] = rate * self.factor(iteration)

    def learning_rate(self) -> float:
        """That of the first group of the first optimiser."""
        return next(iter(self.optimisers.values())).param_groups[0]["lr"]

    def backward(self, losses: Losses, factor: float) -> None:
        """Add the gradients of ``factor`` times the losses; a part without any term that needs one adds none."""
        for terms in losses.values():
            total = sum(terms.values())
            if total.requires_grad:
                self.scaler.scale(total * factor).backward()

    def step(self) -> bool:
        """Update the parameters; whether the loss scale skipped the step."""
        for optimiser in self.optimisers.values():
            self.scaler.step(optimiser)
        before = self.scaler.get_scale()
        self.scaler.update()
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        return self.scaler.get_scale() < before


def draw_seed(*position: int) -> int:
    """A seed for torch's generator that no other (seed, stage, iteration) shares in practice."""
    return int.from_bytes(hashlib.blake2b(repr(position).encode(), digest_size=8).digest(), "little") >> 1
