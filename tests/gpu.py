"""Where a test marked ``gpu`` runs its operator: on a GPU or, where there is none, in a rehearsal of the test itself.

FASTUDA_GPU_TESTS, which only this module reads, is one of

    device      the default: a CUDA device.  conftest.py skips the tests where there is none.
    rehearsal   the CPU computes, but only after the dispatch table was asked as it is on a card.  A wrong name, a
                wrong argument or tolerance of a test shows without a GPU; each form that a test reaches is printed.
    launches    a driver that accepts kernels and runs none: its results have the right shape and dtype, no more than
                that is compared, and the CPU's results take their place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fastuda.ops import _dispatch, _library, use_backend

MODE = os.environ.get("FASTUDA_GPU_TESTS", "device")
DEVICE = "cpu" if MODE == "rehearsal" else "cuda"
BACKENDS = ("cuda", "triton")
CARD = (9, 0)  # whose table decides in a rehearsal
UNSERVED = "does not serve"  # in the message of a backend that was asked for a call it cannot take
FLOAT_DTYPES = {"cuda": (torch.float32, torch.float16, torch.bfloat16, torch.float64)}
FLOAT_DTYPES["triton"] = FLOAT_DTYPES["cuda"][:3]

# For tests of more than our operators: of PyTorch's own kernels and cuBLAS, which a driver that runs nothing lacks.
runs_kernels = pytest.mark.skipif(MODE == "launches", reason="a driver that runs no kernel has no cuBLAS")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_backend_and_dtype = pytest.mark.parametrize("backend, dtype", [(b, d) for b in BACKENDS for d in FLOAT_DTYPES[b]])


def on_device(value: Any) -> Any:
    """A tensor's values on the device, at the strides and the alignment that they have; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    once = value[tuple(slice(0, 1) if step == 0 else slice(None) for step in value.stride())]
    offset = value.storage_offset() % 16
    extent = offset + 1 + sum((n - 1) * step for n, step in zip(once.shape, once.stride(), strict=True))
    room = torch.empty(max(0, extent), dtype=value.dtype, device=DEVICE)
    return room.as_strided(once.shape, once.stride(), offset).copy_(once).expand(value.shape)


def run(backend: str | None, call: Callable, *inputs: Any) -> Any:
    """``call(*inputs)`` on the device by a backend, results on the CPU; of None, the plain call on the CPU.

    Runs it twice and asserts that both give the same bits.  Skips the test where the backend does not serve the call.
    """
    if backend is None:
        return call(*inputs)
    with serving(backend):
        given = [on_device(x) for x in inputs]
        found, again = (tree_map_only(Tensor, lambda t: t.detach().cpu(), call(*given)) for _ in range(2))
    same(again, found, "two calls differ")
    if MODE == "launches":
        plain = tree_map_only(Tensor, Tensor.detach, call(*inputs))
        same(found, plain, "the CPU's result is of another kind")
        return plain
    return found


@contextmanager
def serving(backend: str) -> Iterator[None]:
    """Operators in the block run by a backend; the test is skipped, with the reason, if it does not serve a call."""
    if backend == "reference" and MODE == "launches":
        pytest.skip("a driver that runs no kernel has no cuBLAS, which the references call")
    try:
        with _Rehearsal.instance or nullcontext(), use_backend(backend):
            yield
    except RuntimeError as why:
        if UNSERVED not in str(why):
            raise
        pytest.skip(str(why))


def same(found: Any, expected: Any, message: str) -> None:
    """All tensors of both are equal to the bit, where NaN is like NaN; without values, of one shape and dtype."""
    pairs = list(zip(tree_leaves(found), tree_leaves(expected), strict=True))
    for a, b in pairs:
        if not isinstance(a, Tensor):
            assert a == b, message
        elif MODE == "launches":
            assert (a.shape, a.dtype) == (b.shape, b.dtype), message
        else:
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda found: f"{message}: {found}")


@contextmanager
def noted(**what: Any) -> Iterator[None]:
    """A failure in the block says which of a loop's cases it was."""
    try:
        yield
    except Exception as error:
        error.add_note("in " + ", ".join(f"{name} {value}" for name, value in what.items()))
        raise


class _Rehearsal(TorchDispatchMode):
    """Calls the operators' kernels for CUDA with the CPU's tensors: the dispatch table is asked and stand-ins serve."""

    instance: _Rehearsal | None = None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == _library.NAMESPACE and _library.has_kernel(function._opname, "CUDA"):
            self.operator = function
            return function.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *args)
        return function(*args, **kwargs or {})

    def stand_in(self, form: str, backend: str, *arguments: Any) -> Any:
        """In the place of a backend's kernel of a form: the operator's own kernel for the CPU."""
        print(f"rehearsed {form} by {backend} in {os.environ['PYTEST_CURRENT_TEST'].split(' ')[0]}")
        return self.operator(*arguments)

    @classmethod
    def prepare(cls) -> None:
        """Both backends become installed, on a card that exists for the table only."""
        cls.instance = mode = cls()
        for form in _dispatch.TABLE:
            for key in ("CPU", "CUDA"):
                if not _library.has_kernel(f"{form}_cuda", key):
                    _library.register(f"{form}_cuda", key, partial(mode.stand_in, form, "cuda"))
        _dispatch.launcher = lambda form: partial(mode.stand_in, form, "triton")
        torch.cuda.get_device_capability = lambda device=None: CARD
        torch.cuda.mem_get_info = lambda device=None: (2**36, 2**36)


if MODE == "rehearsal":
    _Rehearsal.prepare()
