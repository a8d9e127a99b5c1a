"""The loss scale of fp16 and which steps are left out, both decided on the device: no step waits for the host."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST, GROWTH, BACKOFF, INTERVAL = 65536.0, 2.0, 0.5, 2000  # as torch.amp.GradScaler


class LossScale:
    """What losses are multiplied by before they are differentiated, and whether their gradients are fit for a step.

    The scale moves as that of ``torch.amp.GradScaler``.  That one lets the host read whether a step is to be left out,
    wherever an optimiser is not fused, leaves it out for fp16 alone, and optimiser by optimiser; here a step is taken
    by all optimisers or by none, in every precision, and weights stay free of NaN until somebody looks.

    scaled: without it the scale is 1 and stays so.
    broken: 1 from the first loss on that is not finite, else 0.  No step follows such a loss.
    in_a_row: how many steps were left out since the last one that was taken.
    """

    def __init__(self, device: str, scaled: bool) -> None:
        self.scaled = scaled
        self.value = torch.full((), FIRST if scaled else 1.0, device=device)
        self.broken, self.in_a_row, self._losses, self._found = torch.zeros(4, device=device).unbind()
        self._growth = torch.zeros((), dtype=torch.int32, device=device)

    def watch(self, loss: Tensor) -> None:
        """One of the losses of this step."""
        self._losses = self._losses + loss.detach()

    def scale(self, loss: Tensor) -> Tensor:
        """The number to differentiate for ``loss``."""
        return loss * self.value if self.scaled else loss

    @torch.no_grad()
    def unscale(self, gradients: list[Tensor]) -> Tensor:
        """Divide the gradients by the scale, in place; 1.0 where the step must be left out, else 0.0, on the device."""
        found = torch.zeros_like(self._found)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found, self.value.double().reciprocal().float())
        self.broken = torch.maximum(self.broken, (~self._losses.isfinite()).float())
        self._found = torch.maximum(found, self.broken)
        return self._found

    @torch.no_grad()
    def update(self) -> None:
        """Move the scale after a step, taken or not."""
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
