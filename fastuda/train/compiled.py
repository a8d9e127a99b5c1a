"""``--compile``: torch.compile of the networks during training steps."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from fastuda.methods.protocol import Method

VARIANTS = 64  # compilations of a network (domains, modes of batch norm, image sizes); torch's own limit is 8


def check_compile(mode: str, device: torch.device) -> None:
    """Raises ValueError where ``mode`` of the configuration cannot work on ``device``."""
    if not mode:
        return
    if mode == "reduce-overhead" and device.type != "cuda":
        raise ValueError("--compile reduce-overhead needs CUDA graphs, which no CPU has: use --compile default")
    if device.type == "cuda" and find_spec("triton") is None:
        raise ValueError("--compile needs Triton on a GPU: pip install triton")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (7, 0):
        raise ValueError("--compile needs a card of compute capability 7.0 or newer: Triton serves no older one")
    from torch._inductor import config

    if not any(shutil.which(name) for name in config.cpp.cxx if name):
        raise ValueError("--compile needs a C++ compiler: install g++, or name one in the environment variable CXX")


@contextmanager
def compiled(method: Method, mode: str, backend: str = "inductor") -> Iterator[None]:
    """Inside the block the method's networks run compiled; "" changes nothing, "reduce-overhead" uses CUDA graphs.

    For training steps alone: preparations hook modules inside the network, and evaluations have images of many sizes.
    The names in the state dict do not change.
    """
    if not mode:
        yield
        return
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    student, teachers = method.networks()
    networks = (student, *teachers)
    for network in networks:
        network.compile(backend=backend, mode=None if mode == "default" else mode, dynamic=False)
    try:
        yield
    finally:
        for network in networks:
            # The attribute that nn.Module.compile sets; torch has no method to undo it.
            network._compiled_call_impl = None
