"""Draws arguments that may be anything, and says what it drew before they are used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
STATISTICS = (torch.float32, torch.float64)
LABELS = (torch.uint8, torch.int32, torch.int64)
INDICES = (torch.int64,)
FLAGS = (torch.bool,)
FOREIGN = (torch.int8, torch.int16, torch.complex64, torch.bool, torch.float64, torch.int64, torch.float16)
LAYOUTS = ("contiguous", "reversed", "channels_last", "sliced", "expanded", "offset")
VALUES = ("plain", "plain", "large", "nan", "inf", "zero", "one nan")
SIZES = (0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8)


def mostly(legal: tuple, *wrong: Any) -> tuple:
    """Choices, one in ten of them wrong."""
    return legal * max(1, round(9 * len(wrong) / len(legal))) + wrong


# The last one overflows whatever it is multiplied by.
COUNTS = mostly((1, 2, 3, 19, 255, 256), 0, -1, 2**62)
IGNORED = (255, 0, -1, 2**31, -(2**63))


class Inputs:
    """What one example is made of.

    draw: of hypothesis.  record: the file that holds the example while it runs, for whoever finds the process dead.
    """

    def __init__(self, draw: Callable[[st.SearchStrategy], Any], record: Path) -> None:
        self._draw, self._record = draw, record
        self.said: list[str] = []

    def begin(self, case: str) -> None:
        """Write down the whole example: the next thing is to run it."""
        self._record.write_text(f"{case}: {', '.join(self.said)}\n")

    def pick(self, *choices: Any) -> Any:
        return self._draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def bytes(self, most: int) -> bytes:
        return self._draw(st.binary(max_size=most))

    def seldom(self, one_in: int) -> bool:
        return self.number(1, one_in) == one_in

    def option(self, name: str, *choices: Any) -> Any:
        """One of the choices, written down."""
        value = self.pick(*choices)
        self.said.append(f"{name}={value!r}")
        return value

    def options(self, **choices: tuple) -> dict[str, Any]:
        """One of the choices of each option, written down."""
        return {name: self.option(name, *values) for name, values in choices.items()}

    def sizes(self, count: int) -> tuple[int, ...]:
        return tuple(self.pick(*SIZES) for _ in range(count))

    def size(self, name: str = "size") -> tuple[int, ...] | None:
        """(height, width), and what is none."""
        legal = (None, (self.pick(1, 2, 5, 9), self.pick(1, 3, 8)))
        return self.option(name, *mostly(legal, (0, 3), (-1, 2), (3,), (2**62, 2), (2**31, 2**31)))

    def tensor(self, name: str, shape: tuple[int, ...], dtypes: tuple, fill: Callable | None = None) -> Tensor:
        """A tensor of about this shape and these types: now and then of another, on another device, laid out oddly.

        fill: (shape) -> the values of integers.
        """
        shape = self._spoiled(shape)
        dtype = self.pick(*FOREIGN) if self.seldom(24) else self.pick(*dtypes)
        layout, values = self.pick(*LAYOUTS), self.pick(*VALUES)
        device = "meta" if self.seldom(40) else "cpu"
        self.said.append(f"{name}={str(dtype)[6:]}{list(shape)} {layout} {values} {device}")
        if fill is None or not (dtype in LABELS or dtype == torch.bool):
            tensor = _floats(shape, values, self.number(0, 999))
        else:
            tensor = fill(shape)
        tensor = _laid_out(tensor.to(dtype), layout)
        if dtype in FLOATS and self.seldom(2):
            self.said.append(f"{name} needs a gradient")
            tensor.requires_grad_()
        return tensor.to(device)

    def floats(self, name: str, shape: tuple[int, ...], dtypes: tuple = FLOATS) -> Tensor:
        return self.tensor(name, shape, dtypes)

    def labels(self, name: str, shape: tuple[int, ...], classes: int, dtypes: tuple = LABELS) -> Tensor:
        """Classes, ignored pixels, and numbers that are no class."""
        kind, seed = self.pick("classes", "classes", "near", "anything", "ignored"), self.number(0, 999)
        self.said.append(kind)
        most = min(max(classes, 1), 1000)

        def fill(shape: tuple[int, ...]) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            low, high = {"classes": (0, most), "near": (-2, most + 2), "anything": (-(2**63), 2**63 - 1),
                         "ignored": (255, 256)}[kind]  # fmt: skip
            return torch.randint(low, high, shape, generator=generator)

        return self.tensor(name, shape, dtypes, fill)

    def flags(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.labels(name, shape, 2, FLAGS)

    def _spoiled(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not self.seldom(16):
            return shape
        place = self.number(0, max(0, len(shape) - 1))
        how = self.pick("fewer", "more", "other")
        middle = {"fewer": (), "more": (*shape[place : place + 1], 1), "other": (self.pick(*SIZES),)}[how]
        return (*shape[:place], *middle, *shape[place + 1 :])


def _floats(shape: tuple[int, ...], values: str, seed: int) -> Tensor:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if values == "large":
        return tensor * 3e38
    if values == "one nan":
        if tensor.numel():
            tensor.view(-1)[seed % tensor.numel()] = float("nan")
        return tensor
    fixed = {"nan": float("nan"), "inf": float("inf"), "zero": 0.0}
    return torch.full(shape, fixed[values]) if values in fixed else tensor


def _laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values, but for "expanded", in another order or with gaps in memory."""
    order = tuple(reversed(range(tensor.dim())))
    if layout == "reversed":
        return tensor.permute(order).contiguous().permute(order)
    if layout == "channels_last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        room = tensor.new_zeros([2 * size for size in tensor.shape])
        room = room[tuple(slice(None, None, 2) for _ in tensor.shape)]
        return room.copy_(tensor)
    if layout == "expanded" and tensor.dim() and tensor.shape[0]:
        return tensor[:1].expand(tensor.shape)
    if layout == "offset":
        return torch.cat([tensor.new_zeros(1), tensor.reshape(-1)])[1:].view(tensor.shape)
    return tensor
