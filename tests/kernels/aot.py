"""Ahead-of-time compilation of what a launcher would run on a card that is not here, and the resources it takes."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32", torch.uint8: "*u8",
}  # fmt: skip
DIVISIBLE = [["tt.divisibility", 16]]


def launches(module: ModuleType, capability: int, call, monkeypatch) -> list[tuple]:
    """(kernel, positional arguments, constants, options) of each launch of ``call()`` on such a card."""
    recorded = []

    def record(kernel, grid, *args, num_warps, num_stages=2, **constants):
        if 0 not in grid:
            recorded.append((kernel, args, constants, {"num_warps": num_warps, "num_stages": num_stages}))

    cores = capability >= 80
    answers = {"precision": "tf32x3" if cores else "ieee", "exact_product": "bf16" if cores else "fma"}
    monkeypatch.setattr(module, "launch", record)
    for name, answer in answers.items():
        if hasattr(module, name):
            monkeypatch.setattr(module, name, lambda device, answer=answer: answer)
    call()
    return recorded


def compile_launch(launch: tuple, capability: int):
    """Compile one recorded launch as the JIT would specialise it: 1 and None are constants, 16 divides or not."""
    kernel, args, constants, options = launch
    names = kernel.arg_names
    signature, constexprs, attrs = {}, {}, {}
    for i, (name, value) in enumerate(zip(names, args, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name], divisible = TYPES[value.dtype], True
        elif value is None or (isinstance(value, int) and value == 1):
            signature[name], constexprs[(i,)], divisible = "constexpr", value, False
        elif isinstance(value, float):
            signature[name], divisible = "fp32", False
        else:
            signature[name], divisible = "i32" if -(2**31) <= value < 2**31 else "i64", value % 16 == 0
        if divisible:
            attrs[(i,)] = DIVISIBLE
    for name, value in constants.items():
        signature[name], constexprs[(names.index(name),)] = "constexpr", value
    source = ASTSource(kernel, signature, constexprs, attrs)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(compiled, capability: int) -> dict[str, object]:
    """Registers, spilled bytes (local memory), shared memory and the matrix instructions of a compiled kernel."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run(tools / "cuobjdump", "--dump-resource-usage", file.name)
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    matrix = set(re.findall(r"\b(wgmma|mma|tcgen05)\.\S*?(f16|bf16|tf32)\b", compiled.asm["ptx"]))
    return {
        "registers": found["REG"],
        "spills": found["STACK"] + found["LOCAL"],
        "shared": compiled.metadata.shared,
        "matrix": sorted(f"{kind}.{dtype}" for kind, dtype in matrix),
    }


def _run(*command) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
