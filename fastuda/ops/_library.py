"""The operator library ``fastuda``: the only place that defines schemas and registers kernels from Python.

The dispatcher is the dispatch table. Every operator has its plain PyTorch reference under
``CompositeExplicitAutograd``; ``csrc`` overrides CPU and CUDA where a compiled kernel exists.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

NAMESPACE = "fastuda"

_library = torch.library.Library(NAMESPACE, "DEF")
_defined: dict[str, Callable] = {}
_schemas: dict[str, str] = {}


def define(schema: str, reference: Callable, fake: Callable) -> torch._ops.OpOverloadPacket:
    """Define an operator once: its schema, its reference for every device, and its fake for tracing.

    schema: ``"name(Tensor x, ...) -> Tensor"`` without the namespace.
    reference: plain PyTorch, called below autograd; it must not return an alias of an input.
    fake: same arguments, returns empty tensors with the shapes, dtypes and strides of the real result.
    Raises RuntimeError if the name is already defined.
    """
    name = schema.split("(", 1)[0].strip()
    if name in _defined:
        raise RuntimeError(f"operator {NAMESPACE}::{name} is already defined")
    _library.define(schema)
    register(name, "CompositeExplicitAutograd", reference)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_library)
    _defined[name], _schemas[name] = reference, schema
    return getattr(getattr(torch.ops, NAMESPACE), name)


def define_alias(name: str, alias: str) -> None:
    """Define ``alias`` with the schema of ``name`` and no kernel: the place of one backend's kernel of ``name``."""
    _library.define(_schemas[name].replace(name, alias, 1))


def reference(name: str) -> Callable:
    """The plain PyTorch reference of a defined operator."""
    return _defined[name]


def register(op_name: str, dispatch_key: str, fn: Callable) -> None:
    """Register ``fn`` for one dispatch key of a defined operator.

    Raises RuntimeError if that key already holds a kernel: PyTorch would only warn and let the last one win.
    """
    if has_kernel(op_name, dispatch_key):
        raise RuntimeError(f"operator {NAMESPACE}::{op_name} already holds a kernel for {dispatch_key}")
    _library.impl(op_name, fn, dispatch_key)


def has_kernel(op_name: str, dispatch_key: str) -> bool:
    """Whether a kernel was registered for exactly this key (the reference does not count for CPU or CUDA)."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op_name}", dispatch_key)


def operator_names() -> tuple[str, ...]:
    """Names of the operators defined so far, in order of definition."""
    return tuple(_defined)
