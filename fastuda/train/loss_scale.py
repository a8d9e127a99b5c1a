"""The loss scale of fp16, and which updates are skipped: both are decided on the device, without the host."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST, GROWTH, BACKOFF, INTERVAL = 65536.0, 2.0, 0.5, 2000  # as torch.amp.GradScaler


class LossScale:
    """The factor of losses before their backward pass, and whether an update must be skipped.

    The scale changes by the rule of ``torch.amp.GradScaler``, which differs otherwise: it skips updates in fp16 only,
    one optimiser at a time, and makes the host wait for optimisers that are not fused.  Here all optimisers update or
    none does, in every precision, so that no NaN reaches the weights before the host has seen it.

    scaled: if False, the scale is always 1.
    broken: scalar on the device, 1 once any loss was not finite, else 0.  All later updates are skipped.
    in_a_row: scalar on the device, the updates skipped since the last one that was not.
    """

    def __init__(self, device: str, scaled: bool) -> None:
        self.scaled = scaled
        self.value = torch.full((), FIRST if scaled else 1.0, device=device)
        self.broken, self.in_a_row, self._losses, self._found = torch.zeros(4, device=device).unbind()
        self._growth = torch.zeros((), dtype=torch.int32, device=device)

    def watch(self, loss: Tensor) -> None:
        """Add a loss to those that must be finite for this step's update."""
        self._losses = self._losses + loss.detach()

    def scale(self, loss: Tensor) -> Tensor:
        """``loss`` times the scale, for the backward pass."""
        return loss * self.value if self.scaled else loss

    @torch.no_grad()
    def unscale(self, gradients: list[Tensor]) -> Tensor:
        """Divide the gradients by the scale, in place; a scalar on the device: 1.0 if the update must be skipped."""
        found = torch.zeros_like(self._found)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, self.value.double().reciprocal().float())
        self.broken = torch.maximum(self.broken, (~self._losses.isfinite()).float())
        self._found = torch.maximum(found, self.broken)
        return self._found

    @torch.no_grad()
    def update(self) -> None:
        """Adapt the scale after a step, skipped or not."""
        if self.scaled:
            torch._amp_update_scale_(self.value, self._growth, self._found, GROWTH, BACKOFF, INTERVAL)
        self.in_a_row = (self.in_a_row + 1) * self._found
        self._losses = torch.zeros_like(self._losses)

    def state_dict(self) -> dict[str, float | int]:
        """Plain numbers under GradScaler's names; empty without a scale."""
        return {"scale": self.value.item(), "_growth_tracker": self._growth.item()} if self.scaled else {}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        if self.scaled and state:
            self.value.fill_(state["scale"])
            self._growth.fill_(state["_growth_tracker"])
