"""What Triton's interpreter does otherwise than a card, put right: bfloat16, matrix products, and addresses.

The interpreter cuts float32 to bfloat16 where a card rounds to nearest, multiplies the bits of bfloat16 as integers and
forms tf32 products in full float32. Here bfloat16 rounds to nearest, a tf32 product reads the upper 19 bits of its
operands, once or in the three products of "tf32x3", and sums of products are cut toward zero as tensor cores do: tests
see the errors of a card. A load or store outside of the tensors that a kernel was given is an AssertionError.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

_allowed: list[tuple[int, int]] = []  # first and last byte of each tensor of the running kernel
_load, _store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
_cast = InterpreterBuilder.cast_impl
_dot = InterpreterBuilder.create_dot


def install() -> None:
    InterpreterBuilder.cast_impl = cast
    for name in ("create_fp_trunc", "create_fp_ext", "create_fp_to_fp"):
        original = getattr(InterpreterBuilder, name)
        setattr(InterpreterBuilder, name, _casting(original))
    InterpreterBuilder.create_dot = dot
    InterpreterBuilder.create_masked_load = load
    InterpreterBuilder.create_masked_store = store
    if hasattr(interpreter, "_patch_lang_tensor"):
        interpreter._patch_lang_tensor = functools.partial(_with_index, interpreter._patch_lang_tensor)


def _with_index(original, tensor, scope) -> None:
    """Triton 3.6 makes an int of an array of one number, which NumPy 2.4 forbids."""
    original(tensor, scope)  # the scope puts everything back
    tensor.__index__ = lambda self: int(self.handle.data.squeeze())


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The bits of x rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_tf32(x: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) & 0xFFFFE000).view(np.float32)


def cast(self, src: TensorHandle, dst_type) -> TensorHandle:
    pair = src.dtype.scalar, dst_type.scalar
    if pair == (tl.float32, tl.bfloat16):
        return TensorHandle(to_bfloat16(src.data), dst_type.scalar)
    if pair == (tl.bfloat16, tl.float32):
        return TensorHandle(from_bfloat16(src.data), dst_type.scalar)
    return _cast(self, src, dst_type)


def _casting(original):
    def convert(self, src: TensorHandle, dst_type, *rounding) -> TensorHandle:
        if {src.dtype.scalar, dst_type.scalar} == {tl.float32, tl.bfloat16}:
            return cast(self, src, dst_type)
        return original(self, src, dst_type, *rounding)

    return convert


def accumulate(x: np.ndarray, y: np.ndarray, total: np.ndarray, step: int) -> np.ndarray:
    """total + x @ y as tensor cores add: ``step`` products at a time, each sum cut to float32 toward zero."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    for i in range(0, x.shape[1], step):
        total = total + x[:, i : i + step] @ y[i : i + step]
        total = (total.view(np.uint64) & ~np.uint64((1 << 29) - 1)).view(np.float64)
    return total


def dot(self, a: TensorHandle, b: TensorHandle, d: TensorHandle, input_precision, imprecise) -> TensorHandle:
    kind, x, y, total = a.dtype.scalar, a.data, b.data, d.data
    how = getattr(input_precision, "name", "")
    if kind == tl.float32 and how == "IEEE":
        total = total + x @ y  # fused multiply-adds of each thread
    elif kind == tl.float32:
        upper, other = to_tf32(x), to_tf32(y)
        total = total.astype(np.float64)
        if how == "TF32x3":  # infinity has no rest
            total = accumulate(np.nan_to_num(to_tf32(x - upper)), other, total, 8)
            total = accumulate(upper, np.nan_to_num(to_tf32(y - other)), total, 8)
        total = accumulate(upper, other, total, 8)
    elif kind in (tl.bfloat16, tl.float16):
        x, y = (from_bfloat16(t) if kind == tl.bfloat16 else t for t in (x, y))
        total = accumulate(x, y, total.astype(np.float64), 16)
    else:
        return _dot(self, a, b, d, input_precision, imprecise)
    return TensorHandle(total.astype(np.float32), d.dtype.scalar)


def watch(common) -> None:
    """Loads and stores of each launch of ``fastuda.kernels._common`` must stay inside of its tensors."""
    start = common._start

    def watched(kernel, grid, args, options):
        tensors = [t.untyped_storage() for t in args if isinstance(t, torch.Tensor)]
        _allowed[:] = [(t.data_ptr(), t.data_ptr() + t.nbytes()) for t in tensors]
        start(kernel, grid, args, options)

    common._start = watched


def check_addresses(pointers: TensorHandle, mask: TensorHandle) -> None:
    used = pointers.data[np.broadcast_to(mask.data.astype(bool), pointers.data.shape)]
    if not used.size or not _allowed:
        return
    low, high = int(used.min()), int(used.max()) + pointers.get_element_ty().primitive_bitwidth // 8
    assert any(begin <= low and high <= end for begin, end in _allowed), "reads or writes outside of its tensors"


def load(self, ptrs: TensorHandle, mask: TensorHandle, *others):
    check_addresses(ptrs, mask)
    return _load(self, ptrs, mask, *others)


def store(self, ptrs: TensorHandle, value: TensorHandle, mask: TensorHandle, *others):
    check_addresses(ptrs, mask)
    return _store(self, ptrs, value, mask, *others)
