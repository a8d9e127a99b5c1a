"""Shared by all kernels: launching, strided pixels, labels that may be out of range, and exact products."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Feature types that the kernels read; everything is computed in float32.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def launch(kernel, grid: tuple[int, ...], *args, num_warps: int, num_stages: int = 2, **constants) -> None:
    """Run ``kernel`` on the device of its first argument; nothing to do for an empty grid."""
    if 0 not in grid:
        _start(kernel, grid, args, constants | {"num_warps": num_warps, "num_stages": num_stages})


def _start(kernel, grid: tuple[int, ...], args: tuple, options: dict) -> None:
    with torch.cuda.device_of(args[0]):  # Triton launches on the current device
        kernel[grid](*args, **options)


def capability(device: torch.device) -> int | None:
    """The card's compute capability, 80 for 8.0; None in the interpreter, which has no card."""
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def has_tensor_cores(device: torch.device) -> bool:
    """Whether bfloat16 and tf32 products run on tensor cores: compute capability 8.0 and up, and the interpreter."""
    return (capability(device) or 80) >= 80


def precision(device: torch.device) -> str:
    """How ``tl.dot`` forms float32 products: of three tf32 products (22 bits), or by fused multiply-adds."""
    return "tf32x3" if has_tensor_cores(device) else "ieee"


def exact_product(device: torch.device) -> str:
    """How ``exact_dot`` multiplies: "bf16" on tensor cores, "fma" without them."""
    return "bf16" if has_tensor_cores(device) else "fma"


def block(size: int, smallest: int, largest: int) -> int:
    """The power of two that covers ``size``, within bounds."""
    return min(max(triton.next_power_of_2(size), smallest), largest)


def pixel_strides(pixels: Tensor) -> tuple[int, int, int, int, int]:
    """(size 1, size 2, stride 0, stride 1, stride 2) that ``locate`` takes, of (P,) or (N, H, W).

    Neighbouring dimensions are merged where the strides allow it, so that runs of pixels stay as long as they can be.
    """
    dims: list[list[int]] = []
    for size, stride in zip(pixels.shape, pixels.stride(), strict=True):
        if size == 1:
            continue
        if dims and dims[-1][1] == size * stride:
            dims[-1] = [dims[-1][0] * size, stride]
        else:
            dims.append([size, stride])
    (_, s0), (d1, s1), (d2, s2) = [[1, 0]] * (3 - len(dims)) + dims
    return d1, d2, s0, s1, s2


def feature_strides(features: Tensor) -> tuple[int, ...]:
    """``pixel_strides`` of (P, A) or (N, A, H, W), and the stride of the channels."""
    return *pixel_strides(features.select(1, 0) if features.shape[1] else features.sum(1)), features.stride(1)


@triton.jit
def locate(pixel, d1, d2, s0, s1, s2):
    """Element offset of a pixel: 32-bit division, 64-bit result."""
    row = pixel // d2
    column = pixel - row * d2
    image = row // d1
    row = row - image * d1
    return image.to(tl.int64) * s0 + row.to(tl.int64) * s1 + column.to(tl.int64) * s2


@triton.jit
def read_labels(labels, pixel, end, classes, ignore_index, d1, d2, s0, s1, s2):
    """The class of each pixel, or -1 where it is ignored, out of range or at or beyond ``end``."""
    inside = pixel < end
    y = tl.load(labels + locate(pixel, d1, d2, s0, s1, s2), mask=inside, other=0).to(tl.int64)
    valid = inside & (y >= 0) & (y < classes) & (y != ignore_index)
    return tl.where(valid, y, -1).to(tl.int32)


@triton.jit
def split(x):
    """Three bfloat16 whose sum is x, to all of its 24 bits."""
    high = x.to(tl.bfloat16)
    rest = x - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    return high, middle, (rest - middle.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def exact_dot(member, x, PRODUCT: tl.constexpr):
    """member @ x for a matrix of zeros and ones: three bfloat16 products hold all 24 bits of x.

    The sum starts at zero for each block of rows and is added outside, where additions round to nearest.
    """
    if PRODUCT == "fma":
        total = tl.dot(member.to(tl.float32), x, input_precision="ieee")
    else:
        one = member.to(tl.float32).to(tl.bfloat16)
        high, middle, low = split(x)
        total = tl.dot(one, low)
        total = tl.dot(one, middle, total)
        total = tl.dot(one, high, total)
    return total
