"""How kernels are declared and started: integers that Triton must not specialise, and a short way to a warm launch.

Triton compiles a kernel anew when an integer argument becomes 1, or when 16 stops dividing it or the address of a
tensor. Sizes of images, counts of pixels, most strides and the addresses of slices differ from batch to batch, so
``kernel`` exempts them: a kernel is compiled once for each dtype and memory layout. What stays specialised is constant
in training and pays: channels and the strides of pixels of features make loads of 16 bytes possible, and the stride of
1 of the innermost dimension lets neighbouring threads read neighbours (of channels, it is handed over as None).

A warm launch through Triton binds and specialises each argument and formats a text as the key of its cache, which takes
40 to 60 microseconds. ``start`` keeps the compiled kernel under a key at least as fine as Triton's and calls Triton's
launcher with addresses in the place of tensors. It leaves the launch to ``kernel[grid](...)`` where hooks are to see
it, in the interpreter, and where a version of Triton calls its launcher in another way than those known here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from operator import itemgetter

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.runtime import driver
from triton.runtime.jit import JITFunction

# Parameters by name. Sizes, counts and strides that differ from batch to batch:
VARYING = frozenset(
    """
    pixels rows begin end first sources chunks chunk_rows tiles at_once programs per_program panel_rows patches elements
    strips slots wanted stretch i share
    h w height width soft_h soft_w full_h full_w patch_height patch_width
    d1 d2 fd1 fd2 ld1 ld2 gd1 gd2 od1 od2 td1 td2 cd1 cd2 pd1 pd2 ad1 ad2 bd1 bd2 md1 md2 dd1 dd2
    s0 s1 ls0 ls1 gs0 gs1 ts0 ts1 cs0 cs1 ps0 ps1 as0 as1 bs0 bs1 ms0 ms1 ds0 ds1
    channel_stride out_stride ac bc cc dc target_channel source_channel slope_channel
    image_stride class_stride row_stride patch_stride target_image target_row scale_image scale_row offset_image
    offset_patch full_image full_class full_row soft_image_stride soft_class_stride soft_row_stride problem_stride
    """.split()
)
# Tensors that may be slices, so that their addresses are not aligned; kernels read them element by element anyway:
SLICES = frozenset(
    """
    labels label target truth prediction mask confidence modes positive negative valid seed threshold need offsets
    marginal grad grad_triplet grad_cross_entropy weight pixel_weight scores soft full logits other
    """.split()
)
MOST_KEPT = 4096  # compiled kernels in the cache; when it is full it is emptied
# Parameters of Triton's launchers before the kernel's arguments: in 3.6, and from 3.7 on. Both are called in the same
# way, because 3.6 takes the last four together with the arguments.
LAUNCHED_BY = (
    ("gridX", "gridY", "gridZ", "stream", "function"),
    (
        *("gridX", "gridY", "gridZ", "stream", "function"),
        *("kernel_metadata", "launch_metadata", "launch_enter_hook", "launch_exit_hook"),
    ),
)


def kernel(*, fixed: tuple[str, ...] = ()) -> Callable:
    """``triton.jit`` for a kernel that the host starts; ``fixed``: names that are specialised here all the same."""
    return triton.jit(
        do_not_specialize=sorted(VARYING.difference(fixed)),
        do_not_specialize_on_alignment=sorted(SLICES.difference(fixed)),
    )


class _Signature:
    """The positions of tensors, specialised integers and other integers in a kernel's arguments of certain types."""

    def __init__(self, function: JITFunction, types: tuple[type, ...]) -> None:
        given, rest = function.params[: len(types)], function.params[len(types) :]
        exempt = [kind is int and parameter.do_not_specialize for kind, parameter in zip(types, given, strict=True)]
        self.tensors = [i for i, kind in enumerate(types) if issubclass(kind, Tensor)]
        self.fixed = _getter([i for i, kind in enumerate(types) if kind is int and not exempt[i]])
        self.varying = _getter([i for i, is_exempt in enumerate(exempt) if is_exempt])
        self.constants = (None,) * len(rest)  # Triton's launchers skip the arguments that are compiled as constants
        plain = all(kind in (int, float, type(None)) or issubclass(kind, Tensor) for kind in types)
        self.known = plain and bool(self.tensors) and all(parameter.is_constexpr for parameter in rest)


def _getter(places: list[int]) -> Callable[[tuple], tuple]:
    """A function that returns the arguments at these positions as a tuple."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda arguments: tuple([arguments[i] for i in places])


_signatures: dict[tuple, _Signature] = {}
_kept: dict[tuple, tuple] = {}


def start(function, grid: tuple[int, ...], arguments: tuple, options: dict) -> None:
    """Run a kernel on the device of its first argument and on that device's current stream."""
    device = arguments[0].get_device()
    if device < 0 or device == torch.cuda.current_device():
        _start_here(function, grid, arguments, options, device)
    else:
        with torch.cuda.device(device):  # Triton launches on the current device
            _start_here(function, grid, arguments, options, device)


def _start_here(function, grid: tuple[int, ...], arguments: tuple, options: dict, device: int) -> None:
    if not isinstance(function, JITFunction) or _watched(function):
        function[grid](*arguments, **options)
        return
    name, types = function.fn, tuple(map(type, arguments))
    signature = _signatures.get((name, types))
    if signature is None:
        signature = _signatures[name, types] = _Signature(function, types)
    if not signature.known:
        function[grid](*arguments, **options)
        return
    values, dtypes, misaligned = list(arguments), [], 0
    for i in signature.tensors:
        tensor = values[i]
        dtypes.append(tensor.dtype)
        values[i] = address = tensor.data_ptr()
        if address & 15:
            misaligned |= 1 << i
    varying = signature.varying(arguments)
    if varying and (max(varying) >= 2**31 or min(varying) < -(2**31)):
        wide = tuple([-(2**31) <= value < 2**31 for value in varying])
    else:
        wide = None
    fixed = signature.fixed(arguments)
    key = (name, device, misaligned, wide, types, fixed, *dtypes, *options, *options.values())
    kept = _kept.get(key)
    if kept is None:
        _keep(key, function[grid](*arguments, **options))
        return
    compiled, run = kept
    x, y, z = grid if len(grid) == 3 else (*grid, 1, 1)[:3]
    stream = driver.active.get_current_stream(device)
    run(
        x, y, z, stream, compiled.function, compiled.packed_metadata, None, None, None, *values, *signature.constants
    )  # fmt: skip


def _watched(function: JITFunction) -> bool:
    """Whether hooks have to be called before or after launches, as a profiler installs them."""
    if function.pre_run_hooks:
        return True
    hooks = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return any([hook is not None and getattr(hook, "calls", True) for hook in hooks])


def _keep(key: tuple, compiled) -> None:
    """``compiled``: what Triton launched; kept if its launcher is called in a way known here."""
    run = getattr(compiled, "run", None)
    called = tuple(inspect.signature(type(run).__call__).parameters)[1:-1] if callable(run) else ()
    if called in LAUNCHED_BY:
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        _kept[key] = compiled, run
