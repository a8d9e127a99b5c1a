"""Allocations and releases of code that runs on fake tensors: the peak of memory, and the tensors alive at it.

A dispatch mode above ``FakeTensorMode`` is called for every operator.  A result with a new storage counts as an
allocation, and a weak reference to the storage reports its release.  Nothing is computed and no memory is allocated.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA_BLOCK = 512  # bytes that the CUDA allocator rounds to
KINDS = (
    "parameters", "weight copies", "gradients", "optimizer", "teacher", "buffers", "inputs", "activations",
    "activation gradients", "operator workspaces", "temporaries",
)  # fmt: skip
_ROOT = Path(__file__).resolve().parents[2]
_OWN = (__file__, *(str(_ROOT / "train" / name) for name in ("memory/walk.py", "memory/forecast.py", "step.py")))


class Phase(NamedTuple):
    """The stage's name, the part of it that runs, and the number of the step, from 1; 0 outside steps."""

    stage: str
    part: str
    step: int = 0


@dataclass
class Storage:
    """One allocation; ``born`` and ``died`` number the events, allocations and releases; None: not released."""

    bytes: int
    kind: str
    shape: tuple[int, ...]
    dtype: str
    operator: str
    module: str
    line: str
    phase: Phase
    born: int
    died: int | None = None


@dataclass(frozen=True)
class Peak:
    """The most bytes allocated at once in one phase, by kind, and the storages of that moment, largest first."""

    phase: Phase
    bytes: int
    kinds: dict[str, int]
    alive: list[Storage] = field(repr=False)


class Watcher:
    """Called as a walk (walk.py) goes on.  Every method does nothing: override those of interest."""

    def phase(self, phase: Phase) -> None:
        """``phase`` begins."""

    def name(self, root: nn.Module) -> None:
        """``root`` has been built: its modules are called by their paths below it."""

    def mark(self, kind: str, tensors: Iterable[Tensor], name: str = "") -> None:
        """The storages of ``tensors`` are of that kind; name: the parameter or buffer that they belong to, if any."""


# From an operator's name and arguments: the bytes of its workspace, or a PyTorch function that replaces the call.
Inside = Callable[[str, tuple], int | Callable]


class MemoryTrace(Watcher, TorchDispatchMode):
    """Records allocations and releases: ``with FakeTensorMode(), MemoryTrace() as trace: ...; trace.peaks()``.

    block: each storage is rounded up to a multiple of so many bytes.
    inside: called with name and arguments of a call of torch.ops.fastuda; returns the bytes that its kernel allocates
    and frees before it returns, or a PyTorch function that runs instead of it.
    Where code reads a number from the device, it gets 0, 0.5 or True, and the line is added to ``reads``.
    """

    def __init__(self, block: int = CUDA_BLOCK, inside: Inside = lambda name, arguments: 0) -> None:
        super().__init__()
        self.block, self.inside = block, inside
        self.storages: list[Storage] = []
        self.reads: list[tuple[Phase, str]] = []
        self.now = Phase("build", "build")
        self._totals: list[int] = []  # bytes alive after each event
        self._phases: list[tuple[int, Phase]] = [(0, self.now)]
        self._live: dict[int, tuple[Storage, weakref.ref]] = {}
        self._modules: list[nn.Module] = []
        self._names: dict[nn.Module, str] = {}
        self._nodes: dict[int, tuple[str, str]] = {}

    def phase(self, phase: Phase) -> None:
        """All events from here on belong to ``phase``."""
        self.now = phase
        self._phases.append((len(self._totals), phase))

    def name(self, root: nn.Module) -> None:
        """Name the modules below ``root`` by their paths."""
        self._names |= {module: path for path, module in root.named_modules()}

    def enter(self, module: nn.Module) -> None:
        self._modules.append(module)

    def leave(self) -> None:
        self._modules.pop()

    def mark(self, kind: str, tensors: Iterable[Tensor], name: str = "") -> None:
        """Set the kind of the storages of ``tensors``, also for the past; name: what they belong to, if known."""
        for tensor in tensors:
            if found := self._live.get(tensor.untyped_storage()._cdata):
                found[0].kind, found[0].module = kind, name or found[0].module

    def alive(self) -> int:
        """Bytes that are allocated now."""
        return self._totals[-1] if self._totals else 0

    def timeline(self) -> list[tuple[Phase, list[int]]]:
        """The phases in their order, each with the bytes allocated after each of its events."""
        starts = [start for start, _ in self._phases] + [len(self._totals)]
        spans = zip(self._phases, starts[1:], strict=True)
        return [(phase, self._totals[start:end]) for (start, phase), end in spans if end > start]

    def peaks(self) -> dict[Phase, Peak]:
        """The peak of each phase."""
        best: dict[Phase, tuple[int, int]] = {}
        event = 0
        for phase, totals in self.timeline():
            most = max(totals)
            if phase not in best or most > best[phase][0]:
                best[phase] = most, event + totals.index(most)
            event += len(totals)
        return {phase: self._peak(phase, most, first) for phase, (most, first) in best.items()}

    def _peak(self, phase: Phase, most: int, event: int) -> Peak:
        alive = [s for s in self.storages if s.born <= event and (s.died is None or s.died > event)]
        alive.sort(key=lambda storage: -storage.bytes)
        kinds = {kind: sum(s.bytes for s in alive if s.kind == kind) for kind in KINDS}
        return Peak(phase, most, {kind: size for kind, size in kinds.items() if size}, alive)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # A tensor made from a number of the host has a constant: reading it does not wait for the device.
        if func is torch.ops.aten._local_scalar_dense.default and args[0].constant is None:
            self.reads.append((self.now, _line()))
            return True if args[0].dtype is torch.bool else 0.5 if args[0].is_floating_point() else 0
        # Fake tensors do not support this operator, which works in place and allocates nothing.
        if func is torch.ops.aten._fused_sgd_.default:
            return None
        self._number_node()
        inside = self.inside(func._opname, args) if func.namespace == "fastuda" else 0
        if callable(inside):
            with self:
                return inside(*args)
        out = func(*args, **kwargs)
        self._see(func, args, out)
        if inside:
            # The kernel's workspace is allocated beside its results and freed before the call returns.
            self._end(self._begin(inside, "operator workspaces", (inside,), "bytes", func._opname))
        return out

    def _see(self, func, args: tuple, out: Any) -> None:
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._live or not storage.nbytes():
                continue
            kind = self._kind(func, args)
            record = self._begin(storage.nbytes(), kind, tuple(tensor.shape), str(tensor.dtype)[6:], func._opname)
            self._live[key] = record, weakref.ref(storage, lambda _, key=key: self._dead(key))

    def _kind(self, func, args: tuple) -> str:
        part = self.now.part
        if part in ("inputs", "optimizer", "after step", "build"):
            return {"inputs": "inputs", "build": "buffers"}.get(part, "temporaries")
        if func is torch.ops.aten._to_copy.default:
            found = self._live.get(args[0].untyped_storage()._cdata)
            if found and found[0].kind == "parameters":
                return "weight copies"
        # In a backward pass, gradients are enabled only while checkpointed activations are recomputed.
        return "activations" if part != "backward" or torch.is_grad_enabled() else "activation gradients"

    def _begin(self, size: int, kind: str, shape: tuple[int, ...], dtype: str, operator: str) -> Storage:
        size = -(-size // self.block) * self.block
        module, line = self._place()
        record = Storage(size, kind, shape, dtype, operator, module, line, self.now, len(self._totals))
        self.storages.append(record)
        self._totals.append(self.alive() + size)
        return record

    def _end(self, record: Storage) -> None:
        record.died = len(self._totals)
        self._totals.append(self.alive() - record.bytes)

    def _dead(self, key: int) -> None:
        self._end(self._live.pop(key)[0])

    def _place(self) -> tuple[str, str]:
        """Module path and source line of the current call; in a backward pass, those of its forward call."""
        node = torch._C._current_autograd_node()
        if node is not None and not torch.is_grad_enabled():
            module, line = self._nodes.get(node._sequence_nr(), ("", ""))
            return module, f"backward of {line}" if line else node.name()
        return self._module(), _line()

    def _number_node(self) -> None:
        """Record the place of a new node of the graph, which is made just before its forward call is dispatched."""
        last = torch.autograd._get_sequence_nr() - 1
        if torch.is_grad_enabled() and last not in self._nodes:
            self._nodes[last] = self._module(), _line()

    def _module(self) -> str:
        return next((self._names[m] for m in reversed(self._modules) if m in self._names), "")


@contextmanager
def tracing(trace: MemoryTrace) -> Iterator[MemoryTrace]:
    """Inside the block, tensors are fake and ``trace`` records them."""
    hooks = (
        register_module_forward_pre_hook(lambda module, _: trace.enter(module)),
        register_module_forward_hook(lambda *_: trace.leave(), always_call=True),
    )
    try:
        # Copying a module reads data pointers, of which fake tensors warn; random numbers of NumPy are real tensors.
        with (
            warnings.catch_warnings(action="ignore"),
            mock.patch.object(nn.Module, "_apply", _convert),
            FakeTensorMode(allow_non_fake_inputs=True),
            trace,
        ):
            yield trace
    finally:
        for hook in hooks:
            hook.remove()


def _convert(module: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """``nn.Module._apply`` with new parameters: torch's own swaps the old ones' storages, which fake tensors refuse."""
    for part in module.modules() if recurse else (module,):
        for name, parameter in part._parameters.items():
            if parameter is not None:
                new = convert(parameter.detach())
                part._parameters[name] = nn.Parameter(new, parameter.requires_grad)
        part._buffers.update({name: convert(b) for name, b in part._buffers.items() if b is not None})
    return module


def _line() -> str:
    """The innermost line of this package on the stack, such as "models/resnet.py:78".

    Lines of this file are left out; those of the other files in ``_OWN`` count only if there is no other line.
    """
    frame, fallback = sys._getframe(1), ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(str(_ROOT)) and file != _OWN[0]:
            place = f"{file[len(str(_ROOT)) + 1 :]}:{frame.f_lineno}"
            if file not in _OWN:
                return place
            fallback = fallback or place
        frame = frame.f_back
    return fallback
