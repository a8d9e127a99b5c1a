"""Which implementation serves which raw operator on a GPU, by the order in _table.py and what overrides it.

A raw operator X has one kernel for the CUDA key, a function that calls the chosen implementation.  CUDA C++ is
registered as ``X_cuda`` by csrc/cuda; Triton's launchers are imported by name at their first use.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import groupby

import torch

from fastuda import _ext
from fastuda.ops import _library
from fastuda.ops._table import ROWS, Capability

GPU_BACKENDS = ("cuda", "triton", "reference")
OLDEST_TRITON: Capability = (7, 0)

# Form -> ((oldest compute capability, backends by preference), ...): the first row that fits decides.
TABLE: dict[str, tuple[tuple[Capability, tuple[str, ...]], ...]] = {
    form: tuple((row.oldest, row.order) for row in rows) for form, rows in groupby(ROWS, lambda row: row.form)
}
# Form of a raw operator -> module of fastuda.kernels, its launcher, and its check of the arguments.
TRITON: dict[str, tuple[str, str, str]] = {
    "class_moments": ("class_moments", "class_moments", "serves"),
    "class_moments_full": ("class_moments_full", "class_moments_full", "serves"),
    "contrastive_bound_forward": ("contrastive_bound", "forward", "serves"),
    "contrastive_bound_backward": ("contrastive_bound", "backward", "serves_backward"),
    "contrastive_bound_full_forward": ("contrastive_bound_full", "forward", "serves"),
    "contrastive_bound_full_backward": ("contrastive_bound_full", "backward", "serves_backward"),
    "sinkhorn": ("sinkhorn", "sinkhorn", "serves"),
    "mode_losses_forward": ("mode_losses", "forward", "serves"),
    "mode_losses_backward": ("mode_losses", "backward", "serves_backward"),
    "select_triplets": ("select_triplets", "select_triplets", "serves"),
    "triplet_consistency_forward": ("triplet_consistency_loss", "forward", "serves"),
    "triplet_consistency_backward": ("triplet_consistency_loss", "backward", "serves_backward"),
    "class_balanced_sample": ("class_balanced_sample", "class_balanced_sample", "serves"),
    "sample_per_class": ("class_balanced_sample", "sample_per_class", "serves_per_class"),
    "softmax_kl_forward": ("softmax_kl", "forward", "serves"),
    "softmax_kl_backward": ("softmax_kl", "backward", "serves_backward"),
    "class_thresholds": ("class_thresholds", "class_thresholds", "serves"),
    "upsample_cross_entropy": ("upsample_cross_entropy", "upsample_cross_entropy", "serves"),
    "lovasz_softmax": ("lovasz_softmax", "lovasz_softmax", "serves"),
    "pixel_mean": ("pixel_mean", "pixel_mean", "serves"),
    "pseudo_labels": ("pseudo_labels", "pseudo_labels", "serves"),
    "confusion_matrix": ("confusion_matrix", "confusion_matrix", "serves"),
    "confidence_histogram": ("confidence_histogram", "confidence_histogram", "serves"),
    "prototype_rectify": ("prototype_rectify", "prototype_rectify", "serves"),
    "aggregate_patches": ("aggregate_patches", "aggregate_patches", "serves"),
}
# Form -> check of whether its CUDA C++ kernel takes the arguments; forms that take all have none.
CUDA: dict[str, Callable[..., bool]] = {}

_forced: list[str] = []
_warned: set[str] = set()
_held: set[str] = set()  # forms whose CUDA C++ kernel was found; a missing one may be registered later


def serve(name: str, forms: tuple[str, ...] = (), form_of: Callable[..., str] | None = None) -> None:
    """Register for the defined operator ``name`` on CUDA tensors the implementation that the table chooses.

    forms: names in the table of kernels that share the operator's schema; ``form_of(*arguments)`` chooses one.
    """
    for form in forms or (name,):
        _library.define_alias(name, f"{form}_cuda")
    _library.register(name, "CUDA", lambda *arguments: _run(name, form_of(*arguments) if form_of else name, arguments))


def _run(name: str, form: str, arguments: tuple):
    backend = choose(form, _capability(arguments[0].device), arguments)
    if backend == "cuda":
        return _cuda_kernel(form)(*arguments)
    if backend == "triton":
        return launcher(form)(*arguments)
    return _library.reference(name)(*arguments)


def choose(form: str, capability: Capability, arguments: tuple = ()) -> str:
    """The backend for one call: the forced one, else the table's first that can, else the reference, with a warning.

    Raises RuntimeError if the forced backend cannot serve the call.
    """
    asked = requested()
    if asked == "reference":
        return asked
    order = (asked,) if asked != "auto" else preferred(form, capability)
    for backend in order:
        if _available(form, backend, capability) and _accepts(form, backend, arguments):
            return backend
    card = f"compute capability {capability[0]}.{capability[1]}"
    if asked != "auto":
        raise RuntimeError(f"backend {asked!r} was asked for but does not serve {form} with these arguments on {card}")
    if form not in _warned:
        _warned.add(form)
        warnings.warn(
            f"no GPU kernel serves {form} with these arguments on {card}: its plain PyTorch reference runs, slower and "
            "with more memory; fastuda.ops.backend_report() shows what is installed",
            stacklevel=2,
        )
    return "reference"


@cache
def _capability(device: torch.device) -> Capability:
    return torch.cuda.get_device_capability(device)


@cache
def _cuda_kernel(form: str) -> Callable:
    return getattr(torch.ops.fastuda, f"{form}_cuda").default


@cache
def preferred(form: str, capability: Capability) -> tuple[str, ...]:
    """The table's order of backends for a card."""
    return next(order for oldest, order in TABLE[form] if capability >= oldest)


def requested() -> str:
    """The backend of ``use_backend`` or FASTUDA_BACKEND, or "auto"."""
    return _forced[-1] if _forced else _ext.requested_backend()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run all operators on CUDA tensors by "cuda" (CUDA C++), "triton" or "reference" inside the block, in any thread.

    Raises ValueError for another name; a call that this backend cannot serve raises RuntimeError.
    """
    if name not in GPU_BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(GPU_BACKENDS)}, got {name!r}")
    _forced.append(name)
    try:
        yield
    finally:
        _forced.remove(name)


def backends(form: str, capability: Capability | None = None) -> tuple[str, ...]:
    """GPU backends installed here that serve a form of a raw operator, in the table's order for the card.

    capability: of the card, by default the current one; without a GPU, of the newest cards.
    Raises ValueError for a name that the table does not hold.
    """
    if form not in TABLE:
        raise ValueError(f"{form!r} is not in the dispatch table: {', '.join(TABLE)}")
    if capability is None:
        capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else (99, 0)
    return tuple(b for b in preferred(form, capability) if _available(form, b, capability))


def _available(form: str, backend: str, capability: Capability) -> bool:
    if backend == "cuda":
        if form not in _held and _library.has_kernel(f"{form}_cuda", "CUDA"):
            _held.add(form)
        return form in _held
    return form in TRITON and capability >= OLDEST_TRITON and _triton_installed(TRITON[form][0])


@cache
def _triton_installed(module: str) -> bool:
    names = ("triton", "fastuda.kernels", f"fastuda.kernels.{module}")
    return all(importlib.util.find_spec(name) is not None for name in names)


def _accepts(form: str, backend: str, arguments: tuple) -> bool:
    if not arguments:
        return True
    if backend == "cuda":
        return form not in CUDA or CUDA[form](*arguments)
    return getattr(_module(form), TRITON[form][2])(*arguments)


def launcher(form: str) -> Callable:
    """Triton's launcher of a form, with the raw operator's arguments."""
    return getattr(_module(form), TRITON[form][1])


@cache
def _module(form: str):
    return importlib.import_module(f"fastuda.kernels.{TRITON[form][0]}")
