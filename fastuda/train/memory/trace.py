"""Births and deaths of storages while code runs on fake tensors: what the peak will be, and who owns it.

A dispatch mode above ``FakeTensorMode`` sees every operator call.  A result whose storage is new is born there; a weak
reference says when it dies.  Nothing is computed and nothing is allocated.
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
    """Where a step is: the stage's name, the part of it, and which of the walked steps, 0 outside steps."""

    stage: str
    part: str
    step: int = 0


@dataclass
class Storage:
    """One allocation: born and died are numbers of events, ``died`` None while it lives."""

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
    """The most bytes that live at once in one phase, by kind, and the storages that are alive then, largest first."""

    phase: Phase
    bytes: int
    kinds: dict[str, int]
    alive: list[Storage] = field(repr=False)


class Watcher:
    """Called as the walk goes on.  Every method does nothing: override those of interest."""

    def phase(self, phase: Phase) -> None:
        """What follows belongs to ``phase``."""

    def name(self, root: nn.Module) -> None:
        """The modules below ``root`` are the walk's."""

    def mark(self, kind: str, tensors: Iterable[Tensor], name: str = "") -> None:
        """These tensors are of that kind, and belong to what ``name`` names."""


# Given an operator call, its workspace in bytes; or a function that does in PyTorch what the call will do.
Inside = Callable[[str, tuple], int | Callable]


class MemoryTrace(Watcher, TorchDispatchMode):
    """Records what lives when, as ``with FakeTensorMode(), MemoryTrace() as trace: ...; trace.peaks()``.

    block: bytes that each storage is rounded up to.
    inside: (name, arguments) of a call of torch.ops.fastuda → bytes that its kernel takes and gives back, or the
    PyTorch function that runs in its place.
    Reads of a number off the device are answered by 0, 0.5 or True and kept in ``reads``.
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
        """What follows belongs to ``phase``."""
        self.now = phase
        self._phases.append((len(self._totals), phase))

    def name(self, root: nn.Module) -> None:
        """Know the modules below ``root`` by their paths."""
        self._names |= {module: path for path, module in root.named_modules()}

    def enter(self, module: nn.Module) -> None:
        self._modules.append(module)

    def leave(self) -> None:
        self._modules.pop()

    def mark(self, kind: str, tensors: Iterable[Tensor], name: str = "") -> None:
        """Call the storages of ``tensors`` of that kind from their birth on; name: what they belong to, if known."""
        for tensor in tensors:
            if found := self._live.get(tensor.untyped_storage()._cdata):
                found[0].kind, found[0].module = kind, name or found[0].module

    def alive(self) -> int:
        """Bytes that live now."""
        return self._totals[-1] if self._totals else 0

    def timeline(self) -> list[tuple[Phase, list[int]]]:
        """The bytes alive after each event, phase after phase in the order they came."""
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
        return {phase: self._peak(phase, most, at) for phase, (most, at) in best.items()}

    def _peak(self, phase: Phase, most: int, at: int) -> Peak:
        alive = [s for s in self.storages if s.born <= at and (s.died is None or s.died > at)]
        alive.sort(key=lambda storage: -storage.bytes)
        kinds = {kind: sum(s.bytes for s in alive if s.kind == kind) for kind in KINDS}
        return Peak(phase, most, {kind: size for kind, size in kinds.items() if size}, alive)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # A number that came from the host is known: it is read where it stands.
        if func is torch.ops.aten._local_scalar_dense.default and args[0].constant is None:
            self.reads.append((self.now, _line()))
            return True if args[0].dtype is torch.bool else 0.5 if args[0].is_floating_point() else 0
        # Fake tensors do not know it: it changes what is there and allocates nothing.
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
            # The kernel's own memory lives beside its results, and no longer than the call.
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
        # In backward gradients are on only while checkpointed activations are recomputed.
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
        """Module path and source line of what runs now; in backward, of the forward call that it differentiates."""
        node = torch._C._current_autograd_node()
        if node is not None and not torch.is_grad_enabled():
            module, line = self._nodes.get(node._sequence_nr(), ("", ""))
            return module, f"backward of {line}" if line else node.name()
        return self._module(), _line()

    def _number_node(self) -> None:
        """Remember where a new node of the graph comes from: it is made just before its forward call is dispatched."""
        last = torch.autograd._get_sequence_nr() - 1
        if torch.is_grad_enabled() and last not in self._nodes:
            self._nodes[last] = self._module(), _line()

    def _module(self) -> str:
        return next((self._names[m] for m in reversed(self._modules) if m in self._names), "")


@contextmanager
def tracing(trace: MemoryTrace) -> Iterator[MemoryTrace]:
    """Fake tensors, watched by ``trace``."""
    hooks = (
        register_module_forward_pre_hook(lambda module, _: trace.enter(module)),
        register_module_forward_hook(lambda *_: trace.leave(), always_call=True),
    )
    try:
        # Copying a module looks at pointers, which fake tensors only warn about; draws made by NumPy are real tensors.
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
    """``nn.Module._apply`` by new parameters: torch's own swaps the old ones' insides, which fake tensors refuse."""
    for part in module.modules() if recurse else (module,):
        for name, parameter in part._parameters.items():
            if parameter is not None:
                new = convert(parameter.detach())
                part._parameters[name] = nn.Parameter(new, parameter.requires_grad)
        part._buffers.update({name: convert(b) for name, b in part._buffers.items() if b is not None})
    return module


def _line() -> str:
    """The innermost line of this package that is none of this file's: "models/resnet.py:78"."""
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
