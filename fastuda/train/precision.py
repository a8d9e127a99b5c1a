"""The device of a run, the number format that it computes in, and the loss scale that fp16 needs."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from fastuda.ops import build_facts
from fastuda.train.loss_scale import LossScale


@dataclass(frozen=True)
class Precision:
    """dtype: autocast's type, or None for fp32; scaled: gradients need a loss scale; reason: a line for the user."""

    device: str
    dtype: torch.dtype | None
    scaled: bool
    reason: str

    def autocast(self) -> AbstractContextManager:
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device, self.dtype)

    def loss_scale(self) -> LossScale:
        return LossScale(self.device, self.scaled)


def choose_precision(device: torch.device, amp: bool) -> Precision:
    """bf16 where the machine computes it, fp16 with a loss scale on cards below compute capability 8.0, or fp32."""
    if not amp:
        return Precision(device.type, None, False, "fp32")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return Precision("cuda", torch.bfloat16, False, f"bf16 (compute capability {major}.{minor})")
        reason = f"fp16 with a loss scale (compute capability {major}.{minor} does not compute bf16)"
        return Precision("cuda", torch.float16, True, reason)
    if cpu_computes_bf16():
        return Precision("cpu", torch.bfloat16, False, "bf16 (the CPU has AVX512-BF16 or AMX)")
    return Precision("cpu", None, False, "fp32 (this CPU does not compute bf16: --amp has no effect)")


def cpu_computes_bf16() -> bool:
    """Whether the CPU multiplies bf16 in hardware; elsewhere bf16 is emulated and slower than fp32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, lambda: False)()) for check in checks)


def runs_on(cards: str, capability: tuple[int, int]) -> bool:
    """Whether kernels compiled for ``cards`` run on a card of this compute capability.

    cards: such as "6.1_9.0+PTX"; True for a list without numbers, such as "native".  Binary code runs on cards of the
    same major version that are not older; PTX on all newer cards.
    """
    found = re.findall(r"(\d+)\.(\d+)a?(\+PTX)?", cards)
    for major, minor, ptx in found:
        built = int(major), int(minor)
        if built <= capability and (ptx or built[0] == capability[0]):
            return True
    return not found


def choose_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is the GPU where there is one.

    Raises ValueError for a GPU that this torch or this build of fastuda has no code for.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("--device cuda: this torch sees no CUDA device")
        major, minor = torch.cuda.get_device_capability()
        # Binary code of sm_60 runs on sm_61; code of another major version does not.
        if major < 7 and not any(f"sm_{major}{m}" in torch.cuda.get_arch_list() for m in range(minor + 1)):
            raise ValueError(
                f"this torch {torch.__version__} has no code for compute capability {major}.{minor} (a GTX 1080 Ti is "
                "6.1): install a cu126 build of torch, see docs/installation.md"
            )
        cards = build_facts().get("cuda_cards", "")
        if cards and not runs_on(cards, (major, minor)):
            raise ValueError(
                f"fastuda was built for compute capability {cards.replace('_', ', ')}, but this card has "
                f"{major}.{minor}: build it again with TORCH_CUDA_ARCH_LIST={major}.{minor}"
                + (" and nvcc of CUDA 12.9 or older" if major < 7 else "")
            )
    return torch.device(name)
