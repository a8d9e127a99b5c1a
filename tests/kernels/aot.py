"""Compiles what the launchers would launch on cards that are not here, and reads the resources that it takes.

python tests/kernels/aot.py             compiles every case for every card and writes resources.json (minutes)
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(p) for p in (HERE, HERE.parents[1]) if str(p) not in sys.path]

import torch  # noqa: E402
import triton  # noqa: E402
import triton_room  # noqa: E402
from triton import knobs  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

CARDS = (75, 80, 86, 90, 100, 120)
TABLE = HERE / "resources.json"
TYPES = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32", torch.int16: "*i16", torch.uint8: "*u8", torch.bool: "*u1",
}  # fmt: skip
DIVISIBLE = [["tt.divisibility", 16]]
Resources = dict[str, dict[str, object]]  # kernel -> registers, spills, shared, matrix


@dataclass(frozen=True)
class Case:
    """One call of a launcher on tensors of the meta device.

    module: of fastuda.kernels; call: given that module, calls the launcher.
    matrix: kernel -> type of the matrix products ("bf16", "f16", "tf32") that it must use from compute capability 8.0.
    every_card: CI compiles it for all cards; other cases for ``CASE_CARD`` only.
    """

    name: str
    module: str
    call: Callable
    matrix: dict[str, str] = field(default_factory=dict)
    every_card: bool = False


CASE_CARD = 90


@dataclass(frozen=True)
class Launch:
    """A kernel as the JIT would specialise it: 1, None and constants are compiled in; 16 divides or does not."""

    kernel: object
    signature: tuple
    constexprs: tuple
    attrs: tuple
    options: tuple

    @classmethod
    def of(cls, kernel, args: tuple, options: dict) -> Launch:
        names = kernel.arg_names
        given = dict(zip(names, args, strict=False)) | {n: v for n, v in options.items() if n in names}
        signature, constexprs, attrs = [], [], []
        for i, name in enumerate(names):
            value, parameter = given[name], kernel.params[i]
            specialised, divisible = not parameter.do_not_specialize, False
            if isinstance(value, torch.Tensor):
                kind = TYPES[value.dtype]
                divisible = specialised and not parameter.do_not_specialize_on_alignment
            elif parameter.is_constexpr or value is None or (specialised and type(value) is int and value == 1):
                kind = "constexpr"
                constexprs.append(((i,), value))
            elif isinstance(value, bool):
                kind = "u1"
            elif isinstance(value, float):
                kind = "fp32"
            else:
                kind = "i32" if -(2**31) <= value < 2**31 else "i64"
                divisible = specialised and value % 16 == 0
            signature.append((name, kind))
            if divisible:
                attrs.append((i,))
        rest = tuple((n, v) for n, v in options.items() if n not in names)
        return cls(kernel, tuple(signature), tuple(constexprs), tuple(attrs), rest)

    def compile(self, capability: int):
        attrs = {i: DIVISIBLE for i in self.attrs}
        source = ASTSource(self.kernel, dict(self.signature), dict(self.constexprs), attrs)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(self.options))


def launches(case: Case, capability: int) -> list[Launch]:
    """What the case would launch on such a card, in order."""
    triton_room.use_kernels()
    common = triton_room.kernel_module("_common")
    recorded: list[Launch] = []
    with (
        mock.patch.object(common, "capability", lambda device: capability),
        mock.patch.object(
            common, "_start", lambda kernel, grid, args, options: recorded.append(Launch.of(kernel, args, options))
        ),
    ):
        case.call(triton_room.kernel_module(case.module))
    return recorded


def resources(compiled) -> dict[str, object]:
    """Registers, spilled bytes (local memory), shared memory and the matrix instructions of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    matrix = set(re.findall(r"\b(wgmma|mma|tcgen05)\.\S*?(bf16|f16|tf32)\b", compiled.asm["ptx"]))
    return {
        "registers": found["REG"],
        "spills": found["STACK"] + found["LOCAL"],
        "shared": compiled.metadata.shared,
        "matrix": sorted(f"{kind}.{dtype}" for kind, dtype in matrix),
    }


class Compiler:
    """Compiles in a cache of its own and each specialisation once."""

    def __init__(self) -> None:
        self.known: dict[tuple[Launch, int], dict[str, object]] = {}

    def measure(self, case: Case, capability: int) -> Resources:
        found: Resources = {}
        for launch in launches(case, capability):
            if (launch, capability) not in self.known:
                self.known[launch, capability] = resources(launch.compile(capability))
            row, name, n = self.known[launch, capability], launch.kernel.fn.__name__, 2
            base = name
            while found.get(name, row) != row:
                name, n = f"{base} #{n}", n + 1
            found[name] = row
        return found


@contextlib.contextmanager
def fresh_cache() -> Iterator[None]:
    """Triton's cache would hide what the compiler does now, and must not grow by tests."""
    with tempfile.TemporaryDirectory() as folder, knobs.cache.scope():
        knobs.cache.dir = folder
        yield


def cases() -> list[Case]:
    found = [case for module in triton_room.tables("launch_cases") for case in module.CASES]
    assert len({case.name for case in found}) == len(found), "two cases have the same name"
    return found


def record(names: tuple[str, ...]) -> None:
    chosen = [case for case in cases() if case.name.startswith(names or "")]
    with fresh_cache():
        compiler = Compiler()
        found = {case.name: {f"sm_{card}": compiler.measure(case, card) for card in CARDS} for case in chosen}
    known = (json.loads(TABLE.read_text())["cases"] if names else {}) | found
    rows = {case.name: known[case.name] for case in cases() if case.name in known}
    # One row a line: the table is read by people, too.
    text = json.dumps({"triton": triton.__version__, "cases": rows}, indent=1)
    text = re.sub(r'\{\s+("registers"[^{}]*?)\s*\}', lambda m: "{" + re.sub(r"\s+", " ", m[1]) + "}", text)
    text = re.sub(r'\[ ("[^]]*") \]', r"[\1]", text)
    TABLE.write_text(text + "\n")


if __name__ == "__main__":
    record(tuple(sys.argv[1:]))
