"""Helpers of all kernels: launches, strided pixels, labels that may be out of range, sorting, exact products."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastuda.kernels import _launch
from fastuda.kernels._launch import kernel

# Feature types that the kernels read; everything is computed in float32.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BLOCK_LABELS = 128  # labels that a program sorts at a time


def launch(function, grid: tuple[int, ...], *args, num_warps: int, num_stages: int = 2, **constants) -> None:
    """Run a kernel on the device of its first argument; nothing to do for an empty grid."""
    if 0 not in grid:
        _start(function, grid, args, constants | {"num_warps": num_warps, "num_stages": num_stages})


def _start(function, grid: tuple[int, ...], args: tuple, options: dict) -> None:
    _launch.start(function, grid, args, options)


def capability(device: torch.device) -> int | None:
    """The card's compute capability, 80 for 8.0; None in the interpreter, which has no card."""
    if device.type != "cuda":
        return None
    return _capability(device.index)


@functools.cache
def _capability(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def has_tensor_cores(device: torch.device) -> bool:
    """Whether bfloat16 and tf32 products run on tensor cores: compute capability 8.0 and up, and the interpreter."""
    return (capability(device) or 80) >= 80


def precision(device: torch.device) -> str:
    """How ``tl.dot`` forms float32 products: of three tf32 products (22 bits), or by fused multiply-adds."""
    return "tf32x3" if has_tensor_cores(device) else "ieee"


def exact_product(device: torch.device) -> str:
    """The product that ``exact_dot`` uses: "bf16" on tensor cores, "fma" without them."""
    return "bf16" if has_tensor_cores(device) else "fma"


def cdiv(size: int, part: int) -> int:
    """The number of parts that cover ``size``. ``triton.cdiv`` takes microseconds on the host."""
    return -(-size // part)


def next_power_of_2(size: int) -> int:
    """The smallest power of two that is at least ``size`` and at least 1."""
    return 1 << max(size - 1, 0).bit_length()


def block(size: int, smallest: int, largest: int) -> int:
    """The power of two that covers ``size``, within bounds."""
    return min(max(next_power_of_2(size), smallest), largest)


def pixel_strides(pixels: Tensor) -> tuple[int | None, int | None, int, int, int | None]:
    """(size 1, size 2, stride 0, stride 1, stride 2) that ``locate`` takes, of (P,) or (N, H, W).

    Neighbouring dimensions are merged where the strides allow it, so that runs of pixels stay as long as they can be.
    Sizes are None where fewer dimensions are left, as is a last stride of 1 (``spaced``): both are compiled in, and
    depend on the layout only.
    """
    dims: list[tuple[int, int]] = []
    for size, stride in zip(pixels.shape, pixels.stride(), strict=True):
        if dims and dims[-1][1] == size * stride:
            dims[-1] = dims[-1][0] * size, stride
        else:
            dims.append((size, stride))
    last = one_is_none(dims[-1][1] if dims else 1)
    if len(dims) < 2:
        return None, None, 0, 0, last
    if len(dims) == 2:
        return None, dims[1][0], 0, dims[0][1], last
    return dims[1][0], dims[2][0], dims[0][1], dims[1][1], last


def feature_strides(features: Tensor) -> tuple[int, ...]:
    """``pixel_strides`` of (P, A) or (N, A, H, W), and the stride of the channels as ``spaced`` takes it."""
    strides = pixel_strides(features.select(1, 0) if features.shape[1] else features.sum(1))
    return *strides, one_is_none(features.stride(1))


def one_is_none(stride: int) -> int | None:
    """None for a stride of 1, so that Triton compiles it as a constant; other strides are runtime arguments."""
    return None if stride == 1 else stride


@triton.jit
def spaced(i, stride):
    """64-bit element offsets of channels or pixels ``stride`` apart; None is a stride of 1 (``one_is_none``)."""
    offset = i.to(tl.int64)
    if stride is not None:
        offset = offset * stride
    return offset


@triton.jit
def locate(pixel, d1, d2, s0, s1, s2):
    """Element offsets of a block of neighbouring pixels: 32-bit division, 64-bit result.

    Sizes and strides are those of ``pixel_strides``. Where the pixels of a row are contiguous, the whole block is
    declared contiguous, so that the compiler lays its threads along the pixels. At the ends of rows that is not true,
    but it does no harm: no divisibility of the offsets is declared, so each pixel is read separately.
    """
    if d2 is None:
        offset = spaced(pixel, s2)
    else:
        row = pixel // d2
        offset = spaced(pixel - row * d2, s2)
        if d1 is not None:
            image = row // d1
            row = row - image * d1
            offset += image.to(tl.int64) * s0
        offset += row.to(tl.int64) * s1
        if s2 is None:
            offset = tl.max_contiguous(offset, [16])  # of the last addition: it is lost at the call of a function
    return offset


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


def counting_sort(
    labels: Tensor, classes: int, ignore_index: int, shortest_chunk: int, most_chunks: int, *,
    panel_rows: int = 2**20, modes: Tensor | None = None, per_class: int = 1,
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """The pixels in order of their class; and (K,) counts, (K + 1,) first places, (K + 1,) first panels, (K,) slots.

    Stable, in three launches; pixels that are ignored are left out. Panels: of at most ``panel_rows`` pixels of one
    class; a slot: of a class's second panel among all but the first ones. Chunks are counted by themselves; memory: 4
    bytes a pixel and 8 for each chunk and class.
    modes: (P,) of 1-dimensional labels; then ``classes`` counts label x per_class + mode.
    """
    pixels, strides = labels.numel(), pixel_strides(labels)
    chunk_rows = max(shortest_chunk, cdiv(cdiv(pixels, most_chunks), BLOCK_LABELS) * BLOCK_LABELS)
    chunks = cdiv(pixels, chunk_rows)
    empty = {"dtype": torch.int32, "device": labels.device}
    order = torch.empty(pixels, **empty)
    counts, before = (torch.empty(chunks, classes, **empty) for _ in range(2))
    starts, panel_starts = (torch.empty(classes + 1, **empty) for _ in range(2))
    slots, count = torch.empty(classes, **empty), torch.empty(classes, dtype=torch.int64, device=labels.device)
    columns = block(classes, 16, 32)
    grid, options = (chunks, cdiv(classes, columns)), {"BLOCK_K": columns, "num_warps": 4}
    given = labels, modes, counts, before, starts, order, pixels, classes, per_class, ignore_index, chunk_rows
    given = *given, *strides, 0 if modes is None else modes.stride(0)
    launch(_sort_pixels, grid, *given, **options, BLOCK_P=BLOCK_LABELS, PLACE=False)
    launch(
        _scan_counts, (1,), counts, before, count, starts, panel_starts, slots, chunks, classes, panel_rows,
        **options, BLOCK_C=64,
    )  # fmt: skip
    launch(_sort_pixels, grid, *given, **options, BLOCK_P=BLOCK_LABELS, PLACE=True)
    return order, (count, starts, panel_starts, slots)


@kernel()
def _scan_counts(
    counts, before, count, starts, panel_starts, slots, chunks, classes, panel_rows,
    BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """before: pixels of a class in earlier chunks; slots: of a class's second panel in the partial tiles."""
    rows = 0
    panels = 0
    extra = 0
    for lowest in range(0, classes, BLOCK_K):
        k = lowest + tl.arange(0, BLOCK_K)
        total = tl.zeros([BLOCK_K], tl.int32)
        for start in range(0, chunks, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            known = (c < chunks)[:, None] & (k < classes)[None, :]
            at = c[:, None] * classes + k[None, :]
            n = tl.load(counts + at, mask=known, other=0)
            tl.store(before + at, total[None, :] + tl.cumsum(n, 0) - n, mask=known)
            total += tl.sum(n, 0)
        own = (total + panel_rows - 1) // panel_rows
        more = tl.maximum(own - 1, 0)
        tl.store(count + k, total.to(tl.int64), mask=k < classes)
        tl.store(starts + k, rows + tl.cumsum(total, 0) - total, mask=k < classes)
        tl.store(panel_starts + k, panels + tl.cumsum(own, 0) - own, mask=k < classes)
        tl.store(slots + k, extra + tl.cumsum(more, 0) - more, mask=k < classes)
        rows += tl.sum(total, 0)
        panels += tl.sum(own, 0)
        extra += tl.sum(more, 0)
    tl.store(starts + classes, rows)
    tl.store(panel_starts + classes, panels)


@kernel()
def _sort_pixels(
    labels, modes, counts, before, starts, order, pixels, classes, per_class, ignore_index, chunk_rows,
    d1, d2, s0, s1, s2, mode_stride,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, PLACE: tl.constexpr,
):  # fmt: skip
    """Counts the pixels of each class in a chunk, or puts each pixel in its place."""
    chunk = tl.program_id(0)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    end = tl.minimum((chunk + 1) * chunk_rows, pixels)
    place = tl.zeros([BLOCK_K], tl.int32)
    if PLACE:
        place = tl.load(before + chunk * classes + k, mask=k < classes, other=0)
        place += tl.load(starts + k, mask=k < classes, other=0)
    for start in range(chunk * chunk_rows, end, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        y = read_labels(labels, p, end, classes // per_class, ignore_index, d1, d2, s0, s1, s2)
        if modes is not None:
            m = tl.load(modes + p.to(tl.int64) * mode_stride, mask=y >= 0, other=-1)
            y = tl.where((m >= 0) & (m < per_class), y * per_class + m.to(tl.int32), -1)
        member = (y[:, None] == k[None, :]).to(tl.int32)
        if PLACE:
            to = tl.sum(member * (place[None, :] + tl.cumsum(member, 0) - 1), 1)
            tl.store(order + to, p, mask=tl.sum(member, 1) > 0)
        place += tl.sum(member, 0)
    if not PLACE:
        tl.store(counts + chunk * classes + k, place, mask=k < classes)


@triton.jit
def random_bits(seed, STREAM: tl.constexpr, counter):
    """32 random bits of each counter, uint32, as fastuda.reference._random defines them; ``seed``: two int64."""
    bits = mix(counter.to(tl.uint32) ^ tl.load(seed).to(tl.uint32))
    return mix(bits + tl.load(seed + 1).to(tl.uint32) + STREAM * 0x9E3779B9)


@triton.jit
def mix(bits):
    bits = (bits ^ (bits >> 16)) * 0x21F0AAAD
    bits = (bits ^ (bits >> 15)) * 0x735A2D97
    return bits ^ (bits >> 15)
